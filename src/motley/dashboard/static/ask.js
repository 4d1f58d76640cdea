// Asking the server: its key, its errors, its streams.

const KEY = "motley-key";

/** A response that is fine; else an Error with the server's sentence. Asks for the key where it is missing. */
export async function ask(path, options = {}) {
  for (;;) {
    const key = sessionStorage.getItem(KEY);
    const headers = { ...options.headers, ...(key ? { authorization: `Bearer ${key}` } : {}) };
    const response = await fetch(path, { ...options, headers });
    if (response.ok) return response;
    if (response.status === 401) {
      await askForKey(key);
      continue;
    }
    throw new Error(await sentence(response));
  }
}

export async function askJson(path) {
  return (await ask(path)).json();
}

export function post(path, body, signal) {
  return ask(path, { method: "POST", body: JSON.stringify(body), signal, headers: { "content-type": "application/json" } });
}

async function sentence(response) {
  try {
    return (await response.json()).error.message;
  } catch {
    return `the server answered ${response.status}`;
  }
}

let asking = null; // one dialog, whoever needs the key

function askForKey(refused) {
  if (sessionStorage.getItem(KEY) !== refused) return; // somebody else has got one meanwhile
  asking ??= new Promise((done) => {
    const dialog = document.querySelector("#key-dialog");
    dialog.addEventListener("close", () => {
      sessionStorage.setItem(KEY, document.querySelector("#key").value.trim());
      asking = null;
      done();
    }, { once: true });
    dialog.showModal();
  });
  return asking;
}

/** The data of server-sent events, as they come. */
export async function* events(response) {
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    rest += value;
    const parts = rest.split("\n\n");
    rest = parts.pop();
    for (const part of parts) {
      if (part.startsWith("data: ")) yield part.slice(6);
    }
  }
}
