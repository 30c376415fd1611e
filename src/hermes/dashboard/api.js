// What the page asks of Hermes, with the key that it was given, if it needs one.

const KEY = "hermes-key";
const SILENT_MS = 10_000;

export class Refused extends Error {
  constructor(message, status, code) {
    super(message);
    this.status = status;
    this.code = code;
  }
}

let asking = null;

export const hasKey = () => sessionStorage.getItem(KEY) !== null;

export function forgetKey() {
  sessionStorage.removeItem(KEY);
  location.reload();
}

/** Ask, once more with another key where that is needed. Throws Refused with what Hermes says. */
export async function ask(path, options = {}) {
  for (;;) {
    const key = sessionStorage.getItem(KEY);
    const headers = { ...(options.headers ?? {}), ...(key ? { authorization: `Bearer ${key}` } : {}) };
    const answer = await fetch(path, { ...options, headers, cache: "no-store" });
    if (answer.ok) return answer;
    const refused = await refusal(answer);
    if (answer.status !== 401) throw refused;
    if (sessionStorage.getItem(KEY) === key) await askForKey(key ? refused.message : "");
  }
}

export async function get(path) {
  return (await ask(path)).json();
}

export async function send(method, path, body, signal) {
  const json = body === undefined ? {} : { body: JSON.stringify(body), headers: { "content-type": "application/json" } };
  return ask(path, { method, signal, ...json });
}

export const modelPath = (model, verb) => `v1/llm/${encodeURIComponent(model)}/${verb}`;

async function refusal(answer) {
  let told = {};
  try {
    told = (await answer.json()).error ?? {};
  } catch {
    // no JSON: somebody in between
  }
  return new Refused(told.message ?? `${answer.status} ${answer.statusText}`, answer.status, told.code ?? "");
}

function askForKey(why) {
  asking ??= new Promise((resolve) => {
    const dialog = document.getElementById("ask");
    const field = document.getElementById("ask-key");
    document.getElementById("ask-why").textContent = why || "This Hermes asks everybody for a key.";
    field.value = "";
    dialog.addEventListener("cancel", (event) => event.preventDefault());
    dialog.addEventListener(
      "close",
      () => {
        if (field.value) sessionStorage.setItem(KEY, field.value.trim());
        field.value = "";
        asking = null;
        resolve();
      },
      { once: true },
    );
    dialog.showModal();
  });
  return asking;
}

// --- streams ---------------------------------------------------------------------------------------------------------

/** The pieces of a streamed body that end with `end`. */
export async function* pieces(answer, end) {
  const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  try {
    for (;;) {
      const { done, value } = await reader.read();
      if (done) break;
      const parts = (rest + value).split(end);
      rest = parts.pop();
      yield* parts;
    }
    if (rest.trim()) yield rest;
  } finally {
    reader.cancel().catch(() => {});
  }
}

/** Listen for ever, as long as the page is looked at: `heard(event, data)`, `changed(connected)`. */
export async function listen(heard, changed) {
  for (let failures = 0; ; ) {
    await shown();
    const abort = new AbortController();
    const hide = () => document.hidden && abort.abort();
    document.addEventListener("visibilitychange", hide);
    let timer = 0;
    const alive = () => {
      clearTimeout(timer);
      timer = setTimeout(() => abort.abort(), SILENT_MS);
    };
    try {
      const answer = await ask("v1/events", { signal: abort.signal });
      changed(true);
      alive();
      for await (const event of pieces(answer, "\n\n")) {
        alive();
        failures = 0;
        const [name, data] = event.split("\n");
        heard(name.slice("event: ".length), JSON.parse(data.slice("data: ".length)));
      }
    } catch (error) {
      if (error.name !== "AbortError" && !(error instanceof TypeError)) console.info(`events: ${error.message}`);
    }
    clearTimeout(timer);
    document.removeEventListener("visibilitychange", hide);
    if (!document.hidden) changed(false);
    await new Promise((resolve) => setTimeout(resolve, Math.min(500 * 2 ** failures++, 5000)));
  }
}

function shown() {
  if (!document.hidden) return Promise.resolve();
  return new Promise((resolve) => document.addEventListener("visibilitychange", resolve, { once: true }));
}
