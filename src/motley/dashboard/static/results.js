// Past results of this machine, each with its report.

import { ask, askJson } from "./ask.js";
import { make, number, table } from "./words.js";

const $ = (id) => document.getElementById(id);

export async function start() {
  $("board-link").hidden = !(await askJson("/api/page")).board;
}

export async function shown() {
  const found = await askJson("/api/results");
  $("results-none").hidden = found.length > 0;
  const rows = found.map((row) => [
    report(row.id),
    row.date.replace("T", " ").slice(0, 16),
    row.model,
    row.quant,
    number(row.devices),
    row.tg_tokens_per_s === null ? "" : number(row.tg_tokens_per_s),
    row.check_passed === null ? "not made" : row.check_passed ? "passed" : "failed",
  ]);
  table($("results-table"), ["result", "date", "model", "quantisation", "#devices", "#decode tokens/s", "check"], rows);
}

function report(id) {
  const link = make("a", { href: `/api/results/${id}`, target: "_blank", rel: "noopener" }, `report ${id}`);
  link.addEventListener("click", async (event) => {
    event.preventDefault(); // the address alone has no key
    const page = new Blob([await (await ask(link.href)).text()], { type: "text/html" });
    open(URL.createObjectURL(page), "_blank", "noopener");
  });
  return link;
}
