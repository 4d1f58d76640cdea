// A placement as a picture: devices with their memory, links with their round trip. For the pool and for what-if.

import { bytes, number, percent, svg } from "./words.js";

export const HOLDS = {
  home: "attention and what else is at home",
  experts: "experts",
  cache: "KV cache",
  buffers: "buffers and reserve",
};
const WIDTH = 190, HEIGHT = 122, GAP_X = 120, GAP_Y = 64, MOST = 24;

/** `view`: as /api/placement has it. */
export function picture(view, width) {
  const devices = view.devices.slice(0, MOST);
  const columns = Math.max(1, Math.min(devices.length, Math.floor((width + GAP_X) / (WIDTH + GAP_X))));
  const at = new Map(devices.map((device, i) => [device.name, place(i, columns)]));
  const rows = Math.ceil(devices.length / columns);
  const w = columns * (WIDTH + GAP_X) - GAP_X + 4, h = rows * (HEIGHT + GAP_Y) - GAP_Y + 4;
  const used = new Set(devices.filter((device) => device.used).map((device) => device.name));
  const wires = view.links
    .filter((link) => at.has(link.a) && at.has(link.b))
    .map((link) => wire(link, at.get(link.a), at.get(link.b), used.has(link.a) && used.has(link.b)));
  const boxes = devices.map((device) => box(device, at.get(device.name)));
  const root = svg("svg", { viewBox: `-2 -2 ${w} ${h}`, role: "img", "aria-label": spoken(view) }, ...wires, ...boxes);
  root.style.width = `${w}px`;
  return root;
}

function place(i, columns) {
  return { x: (i % columns) * (WIDTH + GAP_X), y: Math.floor(i / columns) * (HEIGHT + GAP_Y) };
}

function wire(link, a, b, used) {
  const kind = used ? "wire" : "wire idle";
  const told = `${link.transport} ${number(link.rtt_us)} µs`;
  const title = svg("title", {}, `${link.a} – ${link.b}: ${told}, ${number(link.gb_s)} GB/s`);
  if (a.y === b.y && Math.abs(a.x - b.x) === WIDTH + GAP_X) {
    const y = a.y + HEIGHT / 2, x = Math.min(a.x, b.x) + WIDTH;
    const label = svg("text", { x: x + GAP_X / 2, y: y - 7, "text-anchor": "middle", class: "soft" }, told);
    return svg("g", {}, svg("path", { d: `M${x} ${y}h${GAP_X}`, class: kind }, title), label);
  }
  if (a.x === b.x && Math.abs(a.y - b.y) === HEIGHT + GAP_Y) {
    const x = a.x + WIDTH / 2, y = Math.min(a.y, b.y) + HEIGHT;
    const label = svg("text", { x: x + 8, y: y + GAP_Y / 2 + 4, class: "soft" }, told);
    return svg("g", {}, svg("path", { d: `M${x} ${y}v${GAP_Y}`, class: kind }, title), label);
  }
  const from = [a.x + WIDTH / 2, a.y + HEIGHT / 2], to = [b.x + WIDTH / 2, b.y + HEIGHT / 2];
  const bend = [(from[0] + to[0]) / 2, Math.max(from[1], to[1]) + HEIGHT * 0.9];
  return svg("path", { d: `M${from}Q${bend} ${to}`, class: kind }, title); // told in the table
}

function box(device, { x, y }) {
  const held = Object.values(device.held).reduce((sum, n) => sum + n, 0);
  const state = device.used ? (device.head ? "device head" : "device") : "device idle";
  const bar = [svg("rect", { x: x + 10, y: y + 86, width: WIDTH - 20, height: 12, class: "room" })];
  let left = x + 10;
  for (const part of Object.keys(HOLDS)) {
    const width = ((WIDTH - 20) * device.held[part]) / Math.max(1, device.memory_bytes);
    bar.push(svg("rect", { x: left, y: y + 86, width, height: 12, class: `holds-${part}` }));
    left += width;
  }
  return svg(
    "g",
    {},
    svg("title", {}, device.source),
    svg("rect", { x, y, width: WIDTH, height: HEIGHT, rx: 9, class: state }),
    svg("text", { x: x + 10, y: y + 21, class: "name" }, short(device.name, 24)),
    svg("text", { x: x + 10, y: y + 39, class: "soft" }, short(device.threads > 1 ? `${device.kind}, ${device.threads} threads` : device.kind, 30)),
    ...roles(device).map((text, i) => svg("text", { x: x + 10, y: y + 58 + 17 * i }, text)),
    ...bar,
    svg("text", { x: x + 10, y: y + 113, class: "soft" }, `${bytes(held)} of ${bytes(device.memory_bytes)}`),
  );
}

export const role = (device) => roles(device).join(", ");

function roles(device) {
  if (!device.used) return ["not in use"];
  const homes = device.home_layers ? [`home of ${device.home_layers} layer${device.home_layers > 1 ? "s" : ""}`] : [];
  const experts = device.expert_share ? [`${percent(device.expert_share)} of the experts`] : [];
  return [...homes, ...experts];
}

const short = (text, most) => (text.length > most ? `${text.slice(0, most - 1)}…` : text);

function spoken(view) {
  const links = view.links.length === 1 ? "1 link" : `${view.links.length} links`;
  const devices = view.devices.slice(0, MOST).map((device) => `${device.name}: ${role(device)}`);
  return `${devices.join("; ")}; ${links}`;
}
