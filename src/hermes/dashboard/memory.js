// What is in the memory of each backend, as a stack, and when it came and went in the last hour.

import { axis, bytes, clock, colour, duration, each, h, say, short, stretch } from "./dom.js";

export class Memory {
  constructor() {
    this.node = h("div.backends");
    this.moves = [];
    this.backends = [];
    this.now = 0;
    this.loaded = "";
    this.seconds = 0;
  }

  state(state) {
    this.now = state.at;
    this.seconds = stretch(state.uptime_s);
    const loaded = JSON.stringify(state.backends.map((backend) => backend.loaded.map((model) => model.name)));
    if (this.loaded && this.loaded !== loaded) dispatchEvent(new Event("hermes-moved")); // the hour has something new
    this.loaded = loaded;
    this.backends = state.backends;
    each(this.node, state.backends, (backend) => backend.name, backendRow);
    this.showTimes();
  }

  history(told) {
    this.moves = told.moves;
    this.showTimes();
  }

  showTimes() {
    for (const backend of this.backends) {
      const row = this.node.known.get(backend.name);
      const moves = this.moves.filter((move) => move.backend === backend.name);
      row.times(stays(backend, moves, this.now, this.seconds), this.now, this.seconds);
    }
  }
}

function backendRow(backend) {
  const state = h("span.pill");
  const kind = h("span.muted");
  const used = h("span.num.used");
  const stack = h("div.stack");
  const legend = h("ul.legend");
  const notes = h("ul.notes");
  const times = h("div.times");
  const below = axis();
  const node = h(
    "article.backend",
    {},
    h("header", {}, h("h3", {}, backend.name), state, kind, used),
    stack,
    legend,
    notes,
    times,
    below.node,
  );
  return {
    node,
    update(told) {
      state.dataset.state = told.draining ? "draining" : told.state;
      say(state, told.draining ? "draining" : told.state);
      say(kind, [told.kind, told.version].filter(Boolean).join(" "));
      const capacity = told.memory.bytes;
      const size = (model) => model.vram_bytes || model.size_bytes;
      const sum = told.loaded.reduce((sum, model) => sum + size(model), 0);
      say(used, capacity ? `${bytes(sum)} of ${bytes(capacity)}` : bytes(sum));
      used.title = told.memory.source;
      const whole = Math.max(capacity || 0, sum) || 1;
      each(stack, told.loaded, (model) => model.name, part);
      for (const model of told.loaded) stack.known.get(model.name).node.style.width = `${(size(model) / whole) * 100}%`;
      each(legend, told.loaded, (model) => model.name, (model) => stackWord(model, size));
      each(notes, remarks(told), (note) => note.key, () => noteRow());
    },
    times(rows, now, seconds) {
      below.node.hidden = rows.length === 0;
      below.show(seconds);
      each(times, rows, (row) => row.model, (row) => timeRow(row));
      for (const row of rows) times.known.get(row.model).draw(row, now, seconds);
    },
  };
}

function part(model) {
  const node = h(`div.part.${colour(model.name)}`, {}, h("span", {}, short(model.name)));
  return { node, update: (told) => (node.title = `${told.name}, ${bytes(told.vram_bytes || told.size_bytes)}`) };
}

function stackWord(model, size) {
  const words = h("b");
  const node = h("li", {}, h(`span.dot.${colour(model.name)}`), `${short(model.name)} `, words);
  return { node, update: (told) => say(words, bytes(size(told))) };
}

function noteRow() {
  const node = h("li");
  return {
    node,
    update(note) {
      node.className = note.kind;
      say(node, note.words);
    },
  };
}

/** What there is to say of a backend besides: what it loads, and what is wrong. */
function remarks(backend) {
  const found = [];
  const note = (key, words, kind = "") => found.push({ key, words, kind });
  for (const change of backend.changes ?? []) {
    const place = change.victims.length ? ` in place of ${change.victims.map(short).join(", ")}` : "";
    const verb = change.loading ? "loading" : "about to load";
    note(`change ${change.model}`, `${verb} ${short(change.model)}${place}, ${duration(change.for_ms)}`, "busy");
  }
  for (const { model, percent } of backend.pulling ?? []) {
    note(`pull ${model}`, `pulling ${short(model)}, ${percent} %`, "busy");
  }
  if (backend.error) note("error", backend.error, "bad");
  if (backend.pressed) note("pressed", backend.pressed, "bad");
  for (const { model, state, why, retry_in_s: wait, limit } of backend.health ?? []) {
    if (state === "closed" && !limit) continue; // well again
    const then = wait !== undefined ? `, tried again in ${duration(wait * 1000)}` : limit ? `, ${limit} at once` : "";
    note(`health ${model}`, `${model === "*" ? "all models" : short(model)}: ${state}${why ? `, ${why}` : ""}${then}`, "bad");
  }
  for (const { model, state, last_error: why } of backend.processes ?? []) {
    if (state !== "up") note(`process ${model}`, `process of ${short(model)}: ${state}${why ? `, ${why}` : ""}`, "busy");
  }
  return found;
}

// --- an hour ---------------------------------------------------------------------------------------------------------

/** By model: when it was loading (`from` to `until`) and in memory; until null: it still is. */
function stays(backend, moves, now, seconds) {
  const rows = new Map();
  const row = (model) => rows.get(model) ?? rows.set(model, { model, bars: [] }).get(model);
  const last = (model) => row(model).bars.findLast((bar) => bar.kind === "in" && bar.until === null);
  for (const { at, model, what, took_ms: took } of moves) {
    const { bars } = row(model);
    if (what === "loaded") {
      bars.push({ kind: "load", from: at - took / 1000, until: at });
      if (!last(model)) bars.push({ kind: "in", from: at, until: null });
    } else if (what === "came") {
      if (!last(model)) bars.push({ kind: "in", from: at, until: null });
    } else if (what === "failed") {
      bars.push({ kind: "bad", from: at - took / 1000, until: at });
    } else {
      const bar = last(model);
      if (bar) bar.until = at;
      else bars.push({ kind: "in", from: now - seconds, until: at });
    }
  }
  const here = new Set(backend.loaded.map(({ name }) => name));
  for (const { model, bars } of rows.values()) if (!here.has(model)) for (const bar of bars) bar.until ??= now;
  for (const name of here) if (!last(name)) row(name).bars.push({ kind: "in", from: now, until: null });
  for (const { model, loading, for_ms: ms } of backend.changes ?? []) {
    if (loading) row(model).bars.push({ kind: "load", from: now - ms / 1000, until: now });
  }
  const seen = ({ until }) => until === null || until > now - seconds;
  return [...rows.values()]
    .map((each) => ({ ...each, bars: each.bars.filter(seen) }))
    .filter((each) => each.bars.length)
    .sort((a, b) => a.model.localeCompare(b.model));
}

function timeRow({ model }) {
  const bars = h("div.bars");
  const node = h("div.time", {}, h("span.clip", { title: model }, short(model)), bars);
  return {
    node,
    update() {},
    draw(row, now, seconds) {
      each(bars, row.bars, (bar) => `${bar.kind} ${bar.from.toFixed(0)}`, (bar) => barOf(bar, model));
      for (const bar of row.bars) bars.known.get(`${bar.kind} ${bar.from.toFixed(0)}`).draw(bar, now, seconds);
    },
  };
}

const WORDS = { in: "in memory", load: "loading", bad: "could not be loaded" };

function barOf(bar, model) {
  const node = h(`div.bar.${bar.kind}.${colour(model)}`);
  return {
    node,
    update() {},
    draw({ kind, from, until }, now, seconds) {
      const place = (at) => Math.max(0, Math.min(100, (1 - (now - at) / seconds) * 100));
      const [left, right] = [place(from), place(until ?? now)];
      node.style.left = `${left}%`;
      node.style.width = `${right - left}%`;
      node.title = `${short(model)} ${WORDS[kind]}, ${clock(from)} to ${until === null ? "now" : clock(until)}`;
    },
  };
}
