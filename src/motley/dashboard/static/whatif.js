// The what-if planner: a question to the server's planner, its answers as a table and as pictures.

import { askJson, post } from "./ask.js";
import { picture } from "./picture.js";
import { make, number, seconds, table } from "./words.js";

const $ = (id) => document.getElementById(id);

export async function start() {
  $("plan").addEventListener("submit", (event) => {
    event.preventDefault();
    plan();
  });
  const about = await askJson("/api/page");
  $("plan-model").placeholder = `${about.model}, the one served`;
  if (!about.measured) {
    $("plan-lab").placeholder = "rtx-pro-6000 + 3x m3-ultra-512 @10gbe";
    $("plan-lab").required = true; // one process: nobody measured it
  }
}

async function plan() {
  const question = {
    model: $("plan-model").value.trim(),
    quant: $("plan-quant").value.trim(),
    lab: $("plan-lab").value.trim(),
    changes: $("plan-changes").value.split("\n").map((line) => line.trim()).filter(Boolean),
    context: Number($("plan-context").value),
    slots: Number($("plan-slots").value),
  };
  $("plan-go").disabled = true;
  $("plan-state").textContent = "searching for placements …";
  try {
    show(await (await post("/api/whatif", question)).json());
    $("plan-state").textContent = "found";
  } catch (error) {
    $("plan-found").hidden = true;
    $("plan-state").textContent = error.message;
  }
  $("plan-go").disabled = false;
}

function show(found) {
  $("plan-found").hidden = false;
  $("plan-title").textContent = `${found.model}, ${found.workload}`;
  const rows = found.outcomes.map((o) => {
    const speed = o.prediction?.tokens_per_s, first = o.first_token_s;
    return [
      o.configuration,
      o.fits ? "yes" : "no",
      speed ? `${number(speed.p50)} (${number(speed.p10)} to ${number(speed.p90)})` : "",
      first ? seconds(first.p50) : "",
      o.limited_by,
      known(o.watts, "W"),
      known(o.price_usd, "USD"),
    ];
  });
  table($("outcomes"), ["configuration", "fits", "#tokens/s", "#first token of a prompt of 512", "limited by", "#watts", "#price"], rows);
  const notes = [...found.notes, ...found.outcomes.flatMap((o) => [...o.notes, ...(o.fits ? [] : o.reason)].map((note) => `${o.configuration}: ${note}`))];
  $("plan-notes").replaceChildren(...[...new Set(notes)].map((note) => make("li", {}, note)));
  $("plan-pictures").replaceChildren(
    ...found.outcomes.filter((o) => o.view).flatMap((o) => [
      make("h3", {}, o.configuration),
      make("div", { class: "picture" }, picture(o.view, $("plan-found").clientWidth - 48)),
      make("ul", {}, ...o.reason.map((why) => make("li", {}, why))),
    ]),
  );
}

function known(total, unit) {
  if (!total.known) return "not known";
  return `${number(total.known)} ${unit}${total.devices_unknown ? `, ${total.devices_unknown} not known` : ""}`;
}
