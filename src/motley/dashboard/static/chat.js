// Chat with the served model, through the same API as everybody's.

import { events, post } from "./ask.js";
import { state, watch } from "./live.js";
import { make, number, seconds } from "./words.js";

const $ = (id) => document.getElementById(id);
const talk = []; // messages as the API has them
let running = null; // an AbortController

export function start() {
  watch((changed) => "model" in changed && ($("chat-note").hidden = state.model.template));
  $("ask").addEventListener("submit", (event) => {
    event.preventDefault();
    const words = $("words").value;
    if (running || !words.trim()) return;
    $("words").value = "";
    say("user", words);
    answer();
  });
  $("words").addEventListener("keydown", (event) => {
    if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
    event.preventDefault();
    $("ask").requestSubmit();
  });
  $("stop").addEventListener("click", () => running?.abort());
  $("again").addEventListener("click", () => {
    while (talk.length && talk.at(-1).role === "assistant") {
      talk.pop();
      $("talk").lastChild.remove();
    }
    if (talk.length) answer();
  });
  $("clear").addEventListener("click", () => {
    running?.abort();
    talk.length = 0;
    $("talk").replaceChildren();
    buttons();
  });
}

function say(role, text) {
  talk.push({ role, content: text });
  const body = make("pre", {}, text);
  const box = make("article", { class: `said ${role}` }, make("h2", {}, role === "user" ? "You" : state.model?.name ?? "Model"), body);
  $("talk").append(box);
  return { box, body };
}

function buttons() {
  $("send").disabled = Boolean(running);
  $("stop").disabled = !running;
  $("again").disabled = Boolean(running) || !talk.length;
}

async function answer() {
  const asked = [...talk];
  if ($("system").value.trim()) asked.unshift({ role: "system", content: $("system").value });
  const { box, body } = say("assistant", "");
  const message = talk.at(-1);
  const below = make("footer", {}, "…");
  box.append(below);
  running = new AbortController();
  buttons();
  const began = performance.now();
  let first = 0, usage = null, thought = null, ended = "";
  try {
    const question = {
      model: state.model.name,
      messages: asked,
      stream: true,
      stream_options: { include_usage: true },
      temperature: Number($("temperature").value),
      max_tokens: Number($("most").value),
      ...($("seed").value ? { seed: Number($("seed").value) } : {}),
    };
    const response = await post("/v1/chat/completions", question, running.signal);
    for await (const data of events(response)) {
      if (data === "[DONE]") break;
      const part = JSON.parse(data);
      if (part.error) throw new Error(part.error.message);
      usage = part.usage ?? usage;
      const delta = part.choices[0]?.delta ?? {};
      first ||= delta.content || delta.reasoning_content ? performance.now() : 0;
      if (delta.reasoning_content) {
        if (!thought) body.before((thought = make("pre", { class: "thought" })));
        thought.append(delta.reasoning_content);
      }
      if (delta.content) {
        message.content += delta.content;
        body.append(delta.content);
      }
      ended = part.choices[0]?.finish_reason ?? ended;
      below.textContent = speed(began, first, usage);
    }
  } catch (error) {
    ended = error.name === "AbortError" ? "stopped" : "failed";
    if (ended === "failed") body.append(make("span", { class: "bad" }, error.message));
  }
  below.textContent = [speed(began, first, usage), ended].filter(Boolean).join(", ");
  $("chat-said").textContent = ended === "failed" ? "The answer failed." : `The model answered: ${message.content.slice(0, 500)}`;
  running = null;
  buttons();
}

function speed(began, first, usage) {
  if (!first) return "";
  const wait = `first token after ${seconds((first - began) / 1000)}`;
  if (!usage) return wait;
  const rate = (usage.completion_tokens - 1) / ((performance.now() - first) / 1000);
  return `${usage.prompt_tokens} + ${usage.completion_tokens} tokens, ${wait}, ${number(rate)} tok/s`;
}
