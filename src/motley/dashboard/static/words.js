// Numbers as people read them, and elements.

export function number(x) {
  if (x === null || x === undefined || !isFinite(x)) return "";
  const size = Math.abs(x);
  if (size >= 1000) return Math.round(x).toLocaleString("en");
  return Number(x.toPrecision(3)).toString();
}

export function bytes(n) {
  if (n >= 1e12) return `${number(n / 1e12)} TB`;
  if (n >= 1e9) return `${number(n / 1e9)} GB`;
  return n >= 1e6 ? `${number(n / 1e6)} MB` : `${number(n / 1e3)} kB`;
}

export function seconds(s) {
  if (s < 1) return `${number(s * 1e3)} ms`;
  return s < 120 ? `${number(s)} s` : `${number(s / 60)} min`;
}

export const percent = (share) => `${Number((100 * share).toPrecision(share < 0.1 ? 2 : 3))} %`;

/** An HTML element. Text is text, whoever wrote it. */
export function make(name, attributes = {}, ...children) {
  return filled(document.createElement(name), attributes, children);
}

export function svg(name, attributes = {}, ...children) {
  return filled(document.createElementNS("http://www.w3.org/2000/svg", name), attributes, children);
}

function filled(element, attributes, children) {
  for (const [key, value] of Object.entries(attributes)) {
    if (value !== null && value !== undefined) element.setAttribute(key, value);
  }
  element.append(...children);
  return element;
}

/** head: names, those of numbers with a leading #. rows: cells, text or elements. */
export function table(element, head, rows) {
  const side = head.map((name) => (name.startsWith("#") ? "number" : null));
  const names = head.map((name, i) => make("th", { scope: "col", class: side[i] }, name.replace(/^#/, "")));
  const lines = rows.map((row) => make("tr", {}, ...row.map((cell, i) => make("td", { class: side[i] }, cell))));
  element.replaceChildren(make("thead", {}, make("tr", {}, ...names)), make("tbody", {}, ...lines));
}
