// A playground: a conversation with any model, streamed as any client would be.

import { get, pieces, Refused, send } from "./api.js";
import { colour, duration, fail, h, panel, say, short } from "./dom.js";

export class Playground {
  constructor(root) {
    this.root = root;
    this.model = h("select", { "aria-label": "Model", required: true });
    this.system = h("input", { type: "text", placeholder: "System prompt (none)", "aria-label": "System prompt" });
    this.most = h("input", { type: "number", min: 1, placeholder: "max tokens", "aria-label": "Most tokens of the answer" });
    this.text = h("textarea", { rows: 3, placeholder: "Ask something. Ctrl+Enter sends.", "aria-label": "Prompt", required: true });
    this.go = h("button.primary", { type: "submit" }, "Send");
    this.stop = h("button", { type: "button", hidden: true }, "Stop");
    this.anew = h("button.quiet", { type: "button" }, "New conversation");
    this.talk = h("div.talk", { ariaLive: "polite" });
    const form = h("form.ask", {}, this.text, h("div.row", {}, this.go, this.stop, this.anew));
    root.append(panel("Playground", "through the queue, as any client", h("div.row", {}, this.model, this.system, this.most), this.talk, form));
    this.messages = [];
    form.addEventListener("submit", (event) => {
      event.preventDefault();
      if (!this.abort) this.ask();
    });
    this.text.addEventListener("keydown", (event) => {
      if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) form.requestSubmit();
    });
    this.stop.addEventListener("click", () => this.abort?.abort());
    this.anew.addEventListener("click", () => {
      this.abort?.abort();
      this.messages = [];
      this.talk.replaceChildren();
    });
  }

  async open() {
    try {
      const { data } = await get("v1/models");
      const chats = data.filter(({ capabilities: can }) => !can?.length || can.includes("completion"));
      const chosen = this.model.value;
      this.model.replaceChildren(...chats.map(({ id }) => h("option", { value: id }, short(id))));
      if (chats.some(({ id }) => id === chosen)) this.model.value = chosen;
    } catch (error) {
      fail(error);
    }
  }

  async ask() {
    const said = this.text.value.trim();
    const model = this.model.value;
    if (!said || !model) return;
    const messages = this.messages; // another conversation may begin before this answer has ended
    this.text.value = "";
    messages.push({ role: "user", content: said });
    this.talk.append(h("p.said.mine", {}, said));
    const thought = h("span.thought");
    const words = h("span");
    const status = h("small.muted", {}, "waiting for its turn");
    const answer = h("div.said", {}, h("b", {}, h(`span.dot.${colour(model)}`), short(model)), h("p", {}, thought, words), status);
    this.talk.append(answer);
    this.abort = new AbortController();
    this.go.disabled = true;
    this.stop.hidden = false;
    try {
      await this.read(model, messages, { thought, words, status });
      messages.push({ role: "assistant", content: words.textContent });
    } catch (error) {
      const stopped = error.name === "AbortError";
      say(status, stopped ? "stopped" : error.message);
      status.classList.toggle("bad", !stopped);
      if (words.textContent) messages.push({ role: "assistant", content: words.textContent });
      else messages.pop();
    }
    this.abort = null;
    this.go.disabled = false;
    this.stop.hidden = true;
    this.text.focus();
  }

  async read(model, said, { thought, words, status }) {
    const system = this.system.value.trim();
    const messages = [...(system ? [{ role: "system", content: system }] : []), ...said];
    const most = this.most.valueAsNumber > 0 ? { max_tokens: this.most.valueAsNumber } : {};
    const body = { model, messages, stream: true, stream_options: { include_usage: true }, ...most };
    const began = performance.now();
    const { signal } = this.abort;
    const answer = await send("POST", "v1/chat/completions", body, signal);
    let first = null;
    let usage = null;
    let whole = false;
    for await (const event of pieces(answer, "\n\n")) {
      if (event.startsWith(": queued")) {
        const [, place, eta] = event.match(/position=(\d+) eta_ms=(\d+)/) ?? [];
        if (place) say(status, `no. ${place} in the queue, in about ${duration(Number(eta))}`);
      }
      const data = event.split("\n").find((line) => line.startsWith("data: "))?.slice(6);
      if (!data) continue;
      if (data === "[DONE]") {
        whole = true;
        continue;
      }
      const told = JSON.parse(data);
      if (told.error) throw new Refused(told.error.message, 200, told.error.code);
      usage = told.usage ?? usage;
      const delta = told.choices?.[0]?.delta ?? {};
      if (delta.content || delta.reasoning_content) first ??= performance.now();
      if (delta.reasoning_content) thought.append(delta.reasoning_content);
      if (delta.content) words.append(delta.content);
      if (first) say(status, `first token after ${duration(first - began)}`);
    }
    if (!whole) throw new Refused("the answer broke off", 200, "");
    const head = (name) => answer.headers.get(name);
    const seconds = (performance.now() - (first ?? began)) / 1000;
    const pace = usage && first ? `${usage.completion_tokens} tokens, ${(usage.completion_tokens / seconds).toFixed(0)} a second` : "";
    const queue = head("x-hermes-queue-ms");
    const told = [
      head("x-hermes-backend"),
      queue === null ? "" : `waited ${duration(Number(queue))}`,
      { load: "loaded for it", swap: "swapped in for it" }[head("x-hermes-loaded")],
      first ? `first token after ${duration(first - began)}` : "",
      pace,
    ];
    say(status, told.filter(Boolean).join(" · "));
  }
}
