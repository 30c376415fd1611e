// What runs and waits, what is in memory, and the last hour: the view that stays open.

import { send } from "./api.js";
import { Chart, latest } from "./charts.js";
import { colour, duration, each, fail, h, panel, rate, say, short, stretch, stretchName } from "./dom.js";
import { Memory } from "./memory.js";
import { recentRow } from "./requests.js";

const RECENT = 8;
const ENOUGH_S = 12;
const HALF_MINUTE = "A second, in the last half minute and what there is of the present one";
const SPAN = "Of half the requests, in the last half minute that had any";
const CLASSES = ["interactive", "normal", "batch"];

export class Now {
  constructor(root) {
    this.root = root;
    this.figures = {};
    this.uptime = 0;
    const figure = (name, title, over) => {
      const value = (this.figures[name] = h("strong", {}, "–"));
      const note = (this.figures[`${name}-note`] = h("small", {}, ""));
      return h("div.figure", { title: over ?? "" }, h("span", {}, title), value, note);
    };
    this.lines = h("tbody");
    this.asked = h("tbody");
    this.idle = h("p.empty", {}, "Nothing runs, nothing waits.");
    this.memory = new Memory();
    this.rows = [];
    this.last = h("table.recent");
    this.lastEmpty = h("p.empty", {}, "No request has ended yet.");
    this.charts = {
      tokens: new Chart("Tokens per second", rate, { stacked: true }),
      wait: new Chart("Wait", duration),
      ttft: new Chart("Time to first token", duration),
    };
    this.span = h("span", {}, "Last hour");
    this.hour = h("div.charts", {}, ...Object.values(this.charts).map((chart) => chart.node));
    root.append(
      h(
        "div.figures",
        {},
        figure("running", "Running"),
        figure("waiting", "Waiting"),
        figure("tokens", "Tokens/s", HALF_MINUTE),
        figure("requests", "Requests/s", HALF_MINUTE),
        figure("ttft", "First token", SPAN),
        figure("wait", "Wait", SPAN),
      ),
      h(
        "div.columns",
        {},
        h(
          "div",
          {},
          queuePanel(
            "Queue",
            "by model and class",
            h(
              "table.lines",
              {},
              h("thead", {}, h("tr", {}, ...["Model", "Class", "Running", "Waiting", "Next in", "Last in"].map(head))),
              this.lines,
            ),
            h("div.open-box", {}, h("table.open", {}, this.asked), this.idle),
          ),
        ),
        h("div", {}, panel("Memory", "and what was swapped", this.memory.node)),
      ),
      panel(this.span, "", this.hour),
      panel("Last requests", "", this.last, this.lastEmpty),
    );
  }

  state(state) {
    const { requests, rates, queue, models } = state;
    this.uptime = state.uptime_s;
    const free = requests.max_concurrent ? `of ${requests.max_concurrent}` : "";
    this.figure("running", requests.active, free);
    this.figure("waiting", requests.queued, requests.queued ? `of ${requests.queue_total}` : "");
    this.figure("tokens", rate(rates?.tokens_out), rates ? `${rate(rates.tokens_in)} read` : "");
    this.figure("requests", rate(rates?.requests), rates?.failed ? `${rate(rates.failed)} failed` : "");
    each(this.lines, lines(queue.lines, models), (line) => `${line.model} ${line.class}`, lineRow);
    this.lines.parentNode.hidden = !queue.lines.length;
    each(this.asked, queue.requests, (each) => each.handle, () => openRow());
    this.idle.hidden = queue.requests.length > 0;
    this.memory.state(state);
  }

  history(told) {
    this.memory.history(told);
    this.hour.parentNode.hidden = !told.models;
    if (!told.models) return;
    const seconds = stretch(this.uptime);
    say(this.span, stretchName(seconds));
    const passed = (told.at - told.from) % told.span_s; // of the present span: too little of it says nothing
    const early = passed < ENOUGH_S && this.uptime > told.span_s;
    const settled = (list, none) => (early ? [none, ...list.slice(0, -1)] : list);
    if (early) told.from -= told.span_s;
    const lasts = (list, at) => (at < list.length - 1 || early ? told.span_s : Math.max(1, passed));
    const per = (list) => settled(list, 0).map((n, at) => n / lasts(list, at));
    const names = Object.keys(told.models).sort();
    this.charts.tokens.draw(
      told,
      names.map((name) => ({ name: short(name), colour: colour(name), values: per(told.models[name].tokens_out) })),
      seconds,
    );
    for (const name of ["wait", "ttft"]) {
      const { p50, p95 } = Object.fromEntries(
        Object.entries(told[`${name}_ms`]).map(([part, list]) => [part, settled(list, null)]),
      );
      const lines = [
        { name: "p50", colour: "half", values: p50 },
        { name: "p95", colour: "most", values: p95 },
      ];
      this.charts[name].draw(told, lines, seconds);
      this.figure(name, duration(latest(p50)), latest(p95) === null ? "" : `p95 ${duration(latest(p95))}`);
    }
  }

  recent(rows) {
    this.rows = rows.slice(0, RECENT);
    this.showRecent();
  }

  ended(record) {
    this.rows = [record, ...this.rows].slice(0, RECENT);
    if (!this.root.hidden) this.showRecent();
  }

  showRecent() {
    const longest = Math.max(...this.rows.map((row) => row.duration_ms), 1);
    each(this.last, this.rows, (row) => `${row.request_id} ${row.created_at}`, recentRow);
    for (const row of this.last.known.values()) row.scale(longest);
    this.lastEmpty.hidden = this.rows.length > 0;
  }

  figure(name, value, note) {
    say(this.figures[name], value);
    say(this.figures[`${name}-note`], note ?? "");
  }
}

function queuePanel(...parts) {
  const node = panel(...parts);
  node.classList.add("queue");
  return node;
}

const head = (title, index) => h(index > 1 ? "th.num" : "th", {}, title);

/** The lines of a model together, the urgent ones first. */
function lines(told, models) {
  const order = (line) => CLASSES.indexOf(line.class);
  return told
    .map((line) => ({ ...line, slots: Object.values(models[line.model]?.slots ?? {}).reduce((a, b) => a + b, 0) }))
    .sort((a, b) => a.model.localeCompare(b.model) || order(a) - order(b));
}

function lineRow(line) {
  const cells = ["running", "waiting", "next", "last"].map(() => h("td.num"));
  const node = h(
    "tr",
    {},
    h("td", {}, h(`span.dot.${colour(line.model)}`), short(line.model)),
    h("td", {}, line.class),
    ...cells,
  );
  return {
    node,
    update(line) {
      say(cells[0], line.running || "·");
      say(cells[1], line.waiting || "·");
      say(cells[2], line.waiting ? duration(line.next_eta_ms) : "");
      say(cells[3], line.waiting ? duration(line.eta_ms) : "");
    },
  };
}

function openRow() {
  const [dot, model, user, what, age] = [h("span.dot"), h("span"), h("td.muted.clip"), h("td.what.clip"), h("td.num")];
  const cancel = h("button.quiet", { type: "button", title: "Send it away" }, "Cancel");
  const node = h("tr", {}, h("td.clip", {}, dot, model), user, what, age, h("td.end", {}, cancel));
  let handle = "";
  cancel.addEventListener("click", async () => {
    cancel.disabled = true;
    try {
      await send("DELETE", `v1/queue/${handle}`);
    } catch (error) {
      fail(error);
      cancel.disabled = false;
    }
  });
  return {
    node,
    update(told) {
      handle = told.handle;
      dot.className = `dot ${colour(told.model)} ${told.state}`;
      node.className = told.state;
      node.title = told.request_id;
      say(model, short(told.model));
      say(user, `${told.user} · ${told.class}`);
      say(what, doing(told));
      say(age, duration(told.age_ms));
    },
  };
}

function doing(told) {
  if (told.state === "running") return `${duration(told.running_ms)} on ${told.backend}`;
  if (told.state === "retrying") return "is tried again";
  if (told.pulled_percent !== undefined) return `its model is ${told.pulled_percent} % here`;
  return `no. ${told.position}, in ${duration(told.eta_ms)}`;
}
