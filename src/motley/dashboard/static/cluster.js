// The first view: what the pool is, how fast it is now, where its time goes, what happened.

import { askJson } from "./ask.js";
import { state, watch } from "./live.js";
import { HOLDS, picture, role } from "./picture.js";
import { bytes, make, number, percent, table } from "./words.js";

const TIME = {
  attention: "norms, projections, attention",
  router: "choosing experts",
  experts: "the home's own experts",
  upload: "bringing weights of experts that another device holds",
  link: "waiting for other nodes",
  head: "embedding and output matrix",
  python: "between operations",
  other: "not accounted for",
};
const KEPT_S = 120;
const $ = (id) => document.getElementById(id);

let view = null;
let chart = null;
const speeds = [[], []]; // time, tokens/s

export function start() {
  for (const [part, words] of Object.entries(HOLDS)) $("memory-legend").append(legend(`holds-${part}`, words));
  watch((changed) => {
    if ("placed" in changed) refresh();
    tiles();
    if ("time" in changed) time();
    if ("slots" in changed) slots();
    if ("events" in changed) happened();
    if (view && "exchanges" in changed) links();
  });
  setInterval(tick, 500);
  new ResizeObserver(draw).observe($("picture"));
  new ResizeObserver(resize).observe($("chart"));
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => (chart?.destroy(), (chart = null)));
}

function legend(kind, words) {
  return make("li", {}, make("span", { class: `swatch ${kind}` }), words);
}

async function refresh() {
  view = await askJson("/api/placement");
  const rows = view.devices.map((device) => [
    device.name,
    device.kind,
    device.used ? role(device) : make("span", { class: "lost" }, "not in use"),
    ...Object.keys(HOLDS).map((part) => bytes(device.held[part])),
    bytes(device.memory_bytes),
  ]);
  table($("devices"), ["device", "kind", "part", "#home", "#experts", "#cache", "#buffers", "#memory"], rows);
  draw();
  links();
  tiles();
}

function draw() {
  const width = $("picture").clientWidth;
  if (!view || !width) return;
  $("picture").replaceChildren(picture(view, width));
}

function links() {
  const waits = waited();
  const rows = view.links.map((link) => {
    const x = waits.get(pair(link));
    const each = x?.count ? `${number((1e6 * Math.max(0, x.seconds - x.work_seconds)) / x.count)} µs` : "none yet";
    return [`${link.a} – ${link.b}`, link.transport, number(link.rtt_us), number(link.gb_s), number(x?.count ?? 0), each];
  });
  table($("links"), ["between", "transport", "#round trip, µs", "#GB/s", "#exchanges", "waits for each, work apart"], rows);
  if (!rows.length) $("links").replaceChildren(make("tbody", {}, make("tr", {}, make("td", {}, "none: one process"))));
}

const pair = (link) => [link.a, link.b].sort().join();

/** What crossed each link, whoever asked: layers at home at either end ask the other. */
function waited() {
  const found = new Map();
  for (const x of state.exchanges ?? []) {
    const had = found.get(pair(x)) ?? { count: 0, seconds: 0, work_seconds: 0 };
    for (const part of Object.keys(had)) had[part] += x[part];
    found.set(pair(x), had);
  }
  return found;
}

function tiles() {
  const predicted = view?.predicted_tokens_per_s;
  $("tile-now").textContent = number(state.tokens_per_s ?? 0);
  $("tile-predicted").textContent = predicted ? number(predicted.p50) : "not predicted";
  if (predicted) {
    $("tile-predicted").append(make("small", {}, ` (${number(predicted.p10)} to ${number(predicted.p90)})`));
  }
  $("tile-step").textContent = number(state.scheduler?.ms_per_step ?? 0);
  const running = (state.slots ?? []).filter((slot) => slot.state !== "idle").length;
  $("tile-running").textContent = `${running}, ${state.queue ?? 0}`;
  $("speed").textContent = `${number(state.tokens_per_s ?? 0)} tok/s`;
  $("model").textContent = state.model?.name ?? "";
  document.title = state.model ? `${state.model.name} – Motley` : "Motley";
}

function time() {
  const whole = Object.values(state.time).reduce((sum, part) => sum + part, 0) || 1;
  const parts = Object.keys(TIME).filter((part) => state.time[part] > 0);
  $("time").replaceChildren(
    ...parts.map((part) => {
      const bar = make("span", { class: `part-${part}`, title: `${part}: ${percent(state.time[part] / whole)}` });
      bar.style.flexGrow = state.time[part] / whole;
      return bar;
    }),
  );
  $("time").setAttribute("aria-label", parts.map((part) => `${part} ${percent(state.time[part] / whole)}`).join(", ") || "No step yet");
  $("time-legend").replaceChildren(
    ...parts.map((part) => legend(`part-${part}`, `${part} ${percent(state.time[part] / whole)}: ${TIME[part]}`)),
  );
}

function slots() {
  const rows = state.slots.map((slot, i) => [String(i), slot.state, ...["prompt", "computed", "generated"].map((key) => number(slot[key] ?? 0))]);
  table($("slots"), ["slot", "state", "#prompt tokens", "#computed", "#generated"], rows);
}

let told = { n: 0, clock: 0 }; // the last one: numbers begin anew with the server, and clocks are set back
function happened() {
  for (const event of state.events) {
    if (event.n <= told.n && event.clock <= told.clock) continue;
    told = event;
    $("events-none").hidden = true;
    const at = new Date(1000 * event.clock).toLocaleTimeString();
    $("events").prepend(make("li", {}, make("time", {}, at), event.text));
  }
  while ($("events").children.length > 100) $("events").lastChild.remove();
}

function tick() {
  const now = Date.now() / 1000;
  speeds[0].push(now);
  speeds[1].push(state.tokens_per_s ?? 0);
  while (now - speeds[0][0] > KEPT_S) speeds.forEach((row) => row.shift());
  if (!$("chart").clientWidth) return;
  chart ??= plot();
  chart.setData(speeds);
}

function plot() {
  const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
  const axis = { stroke: colour("--soft"), grid: { stroke: colour("--grid") }, ticks: { stroke: colour("--grid") } };
  const options = {
    width: $("chart").clientWidth,
    height: 180,
    legend: { show: false },
    cursor: { y: false },
    scales: { x: { range: (u, low, high) => [high - KEPT_S, high] }, y: { range: (u, low, high) => [0, Math.max(1, 1.1 * high)] } },
    axes: [axis, { ...axis, size: 55 }],
    series: [{}, { stroke: colour("--accent"), width: 2, fill: `${colour("--accent")}22`, points: { show: false } }],
  };
  return new uPlot(options, speeds, $("chart"));
}

function resize() {
  const width = $("chart").clientWidth;
  if (chart && width) chart.setSize({ width, height: 180 });
}
