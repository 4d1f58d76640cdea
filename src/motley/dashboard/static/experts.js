// The heat map: which experts the tokens choose, as it happens, in the colours of the devices that hold them.

import { state, watch } from "./live.js";
import { make, number, table } from "./words.js";

const HALF_LIFE_S = 3;
const COLOURS = 8;
const $ = (id) => document.getElementById(id);

let before = null; // counts at the last change
let heat = []; // recent choices of each expert, fading
let last = 0;
let cursor = null; // [layer, expert]
let dirty = false;

export function start() {
  watch((changed) => {
    if ("experts" in changed) count();
    if ("placed" in changed || "model" in changed) owners();
  });
  $("experts-of").addEventListener("change", () => (dirty = true));
  const box = $("heat").parentElement;
  box.addEventListener("keydown", move);
  $("heat").addEventListener("mousemove", (event) => {
    const { w, h } = cell();
    select(Math.floor(event.offsetY / h), Math.floor(event.offsetX / w));
  });
  const calm = matchMedia("(prefers-reduced-motion: reduce)").matches;
  setInterval(frame, calm ? 1000 : 120);
  setInterval(busiest, 1000);
}

export function shown() {
  busiest();
  draw();
}

const visible = () => !$("view-experts").hidden;
const layers = () => (state.experts ?? []).length;
const across = () => Math.max(0, ...(state.experts ?? []).map((row) => row.length));

function count() {
  const now = state.experts;
  if (!before || before.length !== now.length) {
    before = now;
    heat = now.map((row) => row.map(() => 0));
  }
  now.forEach((row, i) => row.forEach((n, e) => (heat[i][e] += Math.max(0, n - before[i][e]))));
  before = now;
  dirty = true;
}

/** Device number of an expert: position among the lab's devices. */
function owner(layer, expert) {
  const devices = names();
  const holder = state.placed?.placement.layers[layer]?.experts[expert];
  return Math.max(0, devices.indexOf(holder));
}

const names = () => state.placed?.lab.devices.map((device) => device.name) ?? ["this machine"];

function owners() {
  $("owners").replaceChildren(
    ...names().map((name, i) => make("li", {}, make("span", { class: `swatch d${i % COLOURS}` }), name)),
  );
  dirty = true;
}

function cell() {
  const width = Math.max(300, $("heat").parentElement.clientWidth - 2);
  const w = Math.max(6, Math.min(22, Math.floor(width / Math.max(1, across()))));
  return { w, h: Math.max(8, Math.min(22, w)) };
}

function frame() {
  const now = performance.now() / 1000;
  const fade = 0.5 ** ((now - (last || now)) / HALF_LIFE_S);
  last = now;
  let warm = false;
  for (const row of heat) {
    for (let e = 0; e < row.length; e++) {
      row[e] *= fade;
      warm ||= row[e] > 0.05;
    }
  }
  if (visible() && (warm || dirty)) draw();
  dirty = warm;
}

function draw() {
  const canvas = $("heat"), { w, h } = cell(), scale = devicePixelRatio || 1;
  const width = across() * w, height = layers() * h;
  if (!width) return;
  canvas.width = width * scale;
  canvas.height = height * scale;
  canvas.style.width = `${width}px`;
  canvas.style.height = `${height}px`;
  const pen = canvas.getContext("2d");
  pen.scale(scale, scale);
  const style = getComputedStyle(document.documentElement);
  const colours = Array.from({ length: COLOURS }, (_, i) => style.getPropertyValue(`--d${i}`).trim());
  const ground = style.getPropertyValue("--grid").trim();
  const values = $("experts-of").value === "all" ? state.experts : heat;
  values.forEach((row, layer) => {
    const even = row.reduce((sum, n) => sum + n, 0) / Math.max(1, row.length);
    row.forEach((n, e) => {
      pen.globalAlpha = 1;
      pen.fillStyle = ground;
      pen.fillRect(e * w, layer * h, w - 1, h - 1);
      pen.globalAlpha = even ? Math.min(1, 0.12 + 0.3 * (n / even)) * (n > 0.05) : 0;
      pen.fillStyle = colours[owner(layer, e) % COLOURS];
      pen.fillRect(e * w, layer * h, w - 1, h - 1);
    });
  });
  if (cursor) {
    pen.globalAlpha = 1;
    pen.strokeStyle = style.getPropertyValue("--ink").trim();
    pen.lineWidth = 2;
    pen.strokeRect(cursor[1] * w, cursor[0] * h, w - 1, h - 1);
  }
}

function move(event) {
  const step = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] }[event.key];
  if (!step) return;
  event.preventDefault();
  const [layer, expert] = cursor ?? [0, -1];
  select(layer + step[0], expert + step[1]);
}

function select(layer, expert) {
  layer = Math.max(0, Math.min(layers() - 1, layer));
  expert = Math.max(0, Math.min((state.experts?.[layer]?.length ?? 1) - 1, expert));
  cursor = [layer, expert];
  dirty = true;
  const row = state.experts?.[layer] ?? [];
  const all = row.reduce((sum, n) => sum + n, 0);
  const share = all ? ` (${number((row[expert] * row.length) / all)} times an even share)` : "";
  $("expert-told").textContent = row.length
    ? `Layer ${layer}, expert ${expert}: chosen ${number(row[expert])} times${share}, on ${names()[owner(layer, expert)]}.`
    : `Layer ${layer} has no experts.`;
}

function busiest() {
  if (!visible() || !state.experts) return;
  const rows = state.experts.map((row, layer) => {
    if (!row.length) return [String(layer), "no experts", "", "", ""];
    const all = row.reduce((sum, n) => sum + n, 0);
    const top = row.indexOf(Math.max(...row));
    const never = row.filter((n) => n === 0).length;
    return [String(layer), all ? String(top) : "none yet", all ? number((row[top] * row.length) / all) : "", names()[owner(layer, top)], number(never)];
  });
  table($("busiest"), ["layer", "busiest expert", "#times an even share", "on", "#never chosen"], rows);
  const all = state.experts.flat().reduce((sum, n) => sum + n, 0);
  $("heat").setAttribute("aria-label", `${layers()} layers by ${across()} experts, ${number(all)} choices so far; the table below has the busiest`);
}
