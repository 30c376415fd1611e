// The last requests: where the time of each went, and why it waited.

import { get } from "./api.js";
import { clock, colour, duration, each, fail, h, panel, say, short } from "./dom.js";

const KEPT = 200;
const PARTS = ["wait", "load", "prefill", "decode"];

export class Requests {
  constructor(root) {
    this.root = root;
    this.rows = [];
    this.filters = {
      model: h("input", { type: "search", placeholder: "Model", "aria-label": "Model", spellcheck: false }),
      user: h("input", { type: "search", placeholder: "User", "aria-label": "User", spellcheck: false }),
    };
    this.failed = h("input", { type: "checkbox" });
    this.body = h("table.recent");
    this.empty = h("p.empty", {}, "No request has ended yet.");
    const legend = PARTS.map((part) => h("li", {}, h(`span.dot.${part}`), NAMES[part]));
    root.append(
      panel(
        "Last requests",
        "the newest first",
        h(
          "div.bar-of-filters",
          {},
          this.filters.model,
          this.filters.user,
          h("label", {}, this.failed, " only those that failed"),
          h("ul.legend", {}, ...legend),
        ),
        this.body,
        this.empty,
      ),
    );
    for (const field of [...Object.values(this.filters), this.failed]) {
      field.addEventListener("input", () => this.show());
    }
  }

  async load() {
    const { data } = await get(`v1/requests?limit=${KEPT}`);
    this.rows = data;
    if (!this.root.hidden) this.show();
  }

  ended(record) {
    this.rows = [record, ...this.rows].slice(0, KEPT);
    if (!this.root.hidden) this.show();
  }

  open() {
    this.show();
  }

  show() {
    const has = (text, field) => (text ?? "").toLowerCase().includes(field.value.trim().toLowerCase());
    const rows = this.rows.filter(
      (row) =>
        has(row.model, this.filters.model) &&
        has(row.user, this.filters.user) &&
        (!this.failed.checked || row.outcome !== "ok"),
    );
    const longest = Math.max(...rows.map((row) => row.duration_ms), 1);
    each(this.body, rows, (row) => `${row.request_id} ${row.created_at}`, recentRow);
    for (const row of this.body.known.values()) row.scale(longest);
    this.empty.hidden = rows.length > 0;
    say(this.empty, this.rows.length ? "None of them is like that." : "No request has ended yet.");
  }
}

const NAMES = { wait: "waited", load: "its model was loaded", prefill: "the prompt was read", decode: "the answer was written" };

/** Milliseconds of each part. Of an answer that came whole nobody knows when it was begun. */
export function parts(record) {
  const queue = record.queue_ms ?? record.duration_ms;
  const load = Math.min(record.load_ms ?? 0, queue);
  const prefill = record.stream && record.ttft_ms ? Math.max(0, record.ttft_ms - queue) : 0;
  return { wait: queue - load, load, prefill, decode: Math.max(0, record.duration_ms - queue - prefill) };
}

/** A row of a table of requests; a click tells why it waited. */
export function recentRow() {
  const [when, dot, model, user] = [h("td.num.muted"), h("span.dot"), h("span"), h("td.clip.muted")];
  const bars = Object.fromEntries(PARTS.map((part) => [part, h(`i.${part}`)]));
  const bar = h("div.timeline", {}, ...Object.values(bars));
  const [took, tokens, outcome] = [h("td.num"), h("td.num.muted"), h("td.outcome")];
  const row = h(
    "tr.request",
    { tabIndex: 0 },
    when,
    h("td.clip", {}, dot, model),
    user,
    h("td.wide", {}, bar),
    took,
    tokens,
    outcome,
  );
  const node = h("tbody", {}, row);
  let record = null;
  let more = null;
  const toggle = async () => {
    if (more) {
      more.remove();
      more = null;
      return;
    }
    try {
      const told = await get(`v1/requests/${encodeURIComponent(record.request_id)}`);
      more = h("tr.more", {}, h("td", { colSpan: 7 }, details(record, told.why)));
      node.append(more);
    } catch (error) {
      fail(error);
    }
  };
  row.addEventListener("click", toggle);
  row.addEventListener("keydown", (event) => event.key === "Enter" && toggle());
  return {
    node,
    update(told) {
      if (record) return; // what is over does not change
      record = told;
      say(when, clock(told.created_at + told.duration_ms / 1000));
      dot.className = `dot ${colour(told.model || "?")}`;
      say(model, short(told.model || "–"));
      say(user, [told.user, told.class].filter(Boolean).join(" · "));
      say(took, duration(told.duration_ms));
      say(tokens, told.tokens_out ? `${told.tokens_out} tok` : "");
      say(outcome, told.outcome === "ok" ? (told.loaded === "hit" ? "" : (told.loaded ?? "")) : (told.code || told.outcome).replaceAll("_", " "));
      outcome.classList.toggle("bad", told.outcome !== "ok");
      const of = parts(told);
      bar.title = PARTS.filter((part) => of[part]).map((part) => `${NAMES[part]}: ${duration(of[part])}`).join("\n");
      for (const part of PARTS) bars[part].style.flexGrow = of[part];
    },
    scale: (longest) => (bar.style.width = `${Math.max(0.5, (record.duration_ms / longest) * 100)}%`),
  };
}

function details(record, why) {
  const list = h("dl.details");
  const tell = (name, words) => words !== "" && list.append(h("div", {}, h("dt", {}, name), h("dd", {}, words)));
  const of = parts(record);
  for (const part of PARTS) if (of[part]) tell(NAMES[part], duration(of[part]));
  tell("asked for", record.asked ? short(record.asked) : "");
  tell("backend", record.backend ?? "");
  tell("tries", record.attempts > 1 ? String(record.attempts) : "");
  tell("tokens", record.tokens_in || record.tokens_out ? `${record.tokens_in ?? 0} read, ${record.tokens_out ?? 0} written` : "");
  tell("route", `${record.route} · ${record.status}`);
  tell("key", record.key_id ?? "");
  tell("id", record.request_id);
  if (why) {
    const ahead = Object.entries(why.waiting).map(([name, n]) => `${n} ${name}`).join(", ");
    tell("why it waited", `no. ${why.position} in its line${ahead ? ` (${ahead})` : ""}; its model was ${MODEL_WAS[why.model_was] ?? why.model_was}`);
    tell("it was told", `${duration(why.eta_ms)}, at most ${duration(why.eta_high_ms)}`);
    const memory = why.in_memory.map((m) => `${short(m.model)} on ${m.backend} (${m.running} of ${m.slots} run, ${m.waiting} wait)`);
    tell("in memory then", memory.join("; "));
    const changes = why.changes.map((c) => `${short(c.model)} on ${c.backend}${c.victims.length ? ` in place of ${c.victims.map(short).join(", ")}` : ""}`);
    tell("being loaded", changes.join("; "));
    tell("memory was scarce", Object.entries(why.pressed).map(([name, words]) => `${name}: ${words}`).join("; "));
  } else {
    tell("why it waited", "it did not");
  }
  return list;
}

const MODEL_WAS = { hit: "loaded", coming: "being loaded", absent: "not loaded", pulling: "being downloaded" };
