// The page's start: views by their names in the address, and the stream that feeds them.

import * as chat from "./chat.js";
import * as cluster from "./cluster.js";
import * as experts from "./experts.js";
import { follow } from "./live.js";
import * as results from "./results.js";
import * as whatif from "./whatif.js";

const VIEWS = { cluster, experts, chat, "what-if": whatif, results };

function go(byUser) {
  const name = location.hash.slice(1) in VIEWS ? location.hash.slice(1) : "cluster";
  for (const other of Object.keys(VIEWS)) document.getElementById(`view-${other}`).hidden = other !== name;
  for (const link of document.querySelectorAll("nav a")) {
    if (link.hash === `#${name}`) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
  if (byUser) {
    document.querySelector("main").focus({ preventScroll: true });
    scrollTo(0, 0);
  }
  Promise.resolve(VIEWS[name].shown?.()).catch((error) => console.warn(error.message));
}

addEventListener("hashchange", () => location.hash !== "#main" && go(true));
for (const view of Object.values(VIEWS)) Promise.resolve(view.start()).catch((error) => console.warn(error.message));
go(false);
follow();
