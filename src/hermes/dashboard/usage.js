// Who has used what, and of how much: today and this month, by the calendar (UTC).

import { get } from "./api.js";
import { count, each, fail, h, panel, say } from "./dom.js";

const AGAIN_MS = 5_000;
const NUMBERS = ["Requests today", "Tokens today", "Requests this month", "Tokens this month", "Refused"];

export class Usage {
  constructor(root) {
    this.root = root;
    this.body = h("tbody");
    this.empty = h("p.empty", {}, "Nothing has been used by a key this month. Without keys nobody's use is counted: hermes keys create NAME makes one.");
    this.part = h("p.empty", { hidden: true }, "There is more than can be told: these sums leave out the oldest of this month.");
    const cells = ["Key", "User", ...NUMBERS, "Limits"].map((title, index) => h(index > 1 && index < 7 ? "th.num" : "th", {}, title));
    root.append(
      panel("Usage", "by key, of this month (UTC)", h("div.scroll", {}, h("table.usage", {}, h("thead", {}, h("tr", {}, ...cells)), this.body)), this.part, this.empty),
    );
    this.at = 0;
  }

  open() {
    this.at = 0;
    this.state();
  }

  async state() {
    if (Date.now() - this.at < AGAIN_MS) return;
    this.at = Date.now();
    try {
      const told = await get("v1/usage");
      each(this.body, rows(told), (row) => row.key, usageRow);
      this.part.hidden = !told.has_more;
      this.empty.hidden = this.body.childElementCount > 0;
      this.body.parentNode.hidden = !this.empty.hidden;
    } catch (error) {
      fail(error);
    }
  }
}

const nothing = () => ({ requests: 0, tokens: 0 });

function rows(told) {
  const today = new Date().toISOString().slice(0, 10);
  const found = new Map();
  const row = (key) => found.get(key) ?? found.set(key, { key, name: null, user: "", limits: {}, day: nothing(), month: nothing(), refused: 0 }).get(key);
  for (const { key, name, user, limits } of told.keys) Object.assign(row(key), { name, user, limits });
  for (const use of told.data) {
    const each = row(use.key);
    each.name ??= use.name;
    for (const span of use.day === today ? [each.day, each.month] : [each.month]) {
      span.requests += use.requests;
      span.tokens += use.total_tokens;
    }
    each.refused += use.refused;
  }
  return [...found.values()].sort((a, b) => b.month.tokens - a.month.tokens || a.key.localeCompare(b.key));
}

const PER = { rpm: "requests/min", tpm: "tokens/min", concurrency: "at once" };

function usageRow(row) {
  const cells = NUMBERS.map((title) => h("td.num", { "data-title": title }));
  const [key, user, limits] = [h("td.key", { title: row.key }), h("td.user"), h("td.limits")];
  const node = h("tr", {}, key, user, ...cells, limits);
  return {
    node,
    update(told) {
      say(key, told.name ?? told.key);
      key.classList.toggle("mono", !told.name);
      say(user, told.user || "–");
      const { day, month, refused } = told;
      [day.requests, day.tokens, month.requests, month.tokens, refused].forEach((n, at) => say(cells[at], n ? count(n) : "·"));
      const found = [];
      const { daily_tokens: daily, monthly_tokens: monthly } = told.limits;
      if (daily !== undefined) found.push(gauge("day", day.tokens, daily));
      if (monthly !== undefined) found.push(gauge("month", month.tokens, monthly));
      const words = Object.keys(PER).filter((name) => told.limits[name] !== undefined).map((name) => `${count(told.limits[name])} ${PER[name]}`);
      if (words.length) found.push(h("span.muted", {}, words.join(" · ")));
      limits.replaceChildren(...(found.length ? found : [h("span.muted", {}, "no limits")]));
    },
  };
}

function gauge(of, used, most) {
  const part = Math.min(1, used / most);
  const node = h("span.gauge", { title: `${count(used)} of ${count(most)} tokens of the ${of}` }, h("meter", { min: 0, max: 1, high: 0.9, value: part }));
  node.append(` ${Math.floor(part * 100)} % of ${count(most)} a ${of}`);
  return node;
}
