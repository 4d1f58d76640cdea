// The server's state as it changes: one stream, taken up again when it breaks.

import { ask, events } from "./ask.js";

export const state = {};
const watchers = [];

/** `seen(changed)`: after each change, with the names of what changed. */
export function watch(seen) {
  watchers.push(seen);
}

export async function follow() {
  const trouble = document.querySelector("#trouble");
  for (;;) {
    try {
      for await (const data of events(await ask("/api/events"))) {
        trouble.hidden = true;
        const changed = JSON.parse(data);
        Object.assign(state, changed);
        for (const seen of watchers) seen(changed);
      }
    } catch (error) {
      console.warn(error.message);
    }
    trouble.textContent = "The server does not answer. This page goes on when it is back.";
    trouble.hidden = false;
    await new Promise((later) => setTimeout(later, 1000));
  }
}
