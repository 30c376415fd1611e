// Charts of the last hour: an area for each model, or a line for each percentile. The legend tells the last values, or
// those under the pointer.

import { axis, clock, h, say, svg } from "./dom.js";

const WIDTH = 600;
const HEIGHT = 120;

/** The last number there is; null: there is none. */
export function latest(values) {
  return values.findLast((value) => value !== null) ?? null;
}

export class Chart {
  constructor(title, tell, { stacked = false } = {}) {
    this.tell = tell;
    this.stacked = stacked;
    this.legend = h("ul.legend");
    this.top = h("span.top");
    this.when = h("time");
    this.plot = svg("svg", { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, preserveAspectRatio: "none", "aria-hidden": "true" });
    this.mark = h("div.mark", { hidden: true });
    const box = h("div.plot", {}, this.plot, this.top, this.mark);
    box.addEventListener("pointermove", (event) => this.point(event, box));
    box.addEventListener("pointerleave", () => this.leave());
    this.axis = axis();
    this.node = h(
      "figure.chart",
      {},
      h("figcaption", {}, title, this.when),
      box,
      this.axis.node,
      this.legend,
    );
    this.series = [];
  }

  /** `series`: name, colour and a value for each span, null where there is none. */
  draw(told, series, seconds) {
    this.axis.show(seconds);
    const count = Math.round(seconds / told.span_s);
    this.until = told.from + (series[0]?.values.length ?? 0) * told.span_s;
    this.span = told.span_s;
    this.series = series
      .map((each) => ({ ...each, values: each.values.slice(-count) }))
      .filter(({ values }) => values.some((value) => value !== null && value !== 0));
    const sums = Array.from({ length: count }, (_, at) => this.series.reduce((sum, { values }) => sum + values[at], 0));
    const most = nice(Math.max(0, ...(this.stacked ? sums : this.series.flatMap(({ values }) => values))));
    say(this.top, this.series.length ? this.tell(most) : "");
    const x = (at) => (at / count) * WIDTH;
    const y = (value) => HEIGHT - (value / most) * (HEIGHT - 6);
    const lines = [0.5, 1].map((part) =>
      svg("line", { class: "grid", x1: 0, x2: WIDTH, y1: y(part * most), y2: y(part * most) }),
    );
    this.plot.replaceChildren(...(most > 0 ? lines : []), ...(this.stacked ? this.areas(x, y) : this.lines(x, y)));
    if (this.series.length === 0) this.plot.replaceChildren();
    this.node.classList.toggle("bare", this.series.length === 0);
    this.show(null);
  }

  areas(x, y) {
    const below = [];
    return this.series.map(({ colour, values }) => {
      const floor = values.map((_, at) => below[at] ?? 0);
      values.forEach((value, at) => (below[at] = floor[at] + value));
      const step = (value, at) => [`${x(at)},${y(value)}`, `${x(at + 1)},${y(value)}`];
      const up = below.flatMap(step);
      const down = floor.flatMap(step).reverse();
      return svg("polygon", { class: `area ${colour}`, points: [...up, ...down].join(" ") });
    });
  }

  lines(x, y) {
    return this.series.flatMap(({ colour, values }) => {
      const parts = [];
      let part = [];
      values.forEach((value, at) => {
        if (value === null) part = [];
        else {
          if (part.length === 0) parts.push(part);
          part.push(`${x(at + 0.5)},${y(value)}`);
        }
      });
      return parts.map((points) =>
        points.length > 1
          ? svg("polyline", { class: `line ${colour}`, points: points.join(" ") })
          : svg("line", { class: `line ${colour} alone`, ...ends(points[0]) }),
      );
    });
  }

  /** The legend, of the span at this place; null: the last in which there was anything. */
  show(at) {
    const told = this.series.map(({ name, colour, values }) => {
      const value = at === null ? latest(values) : values[at];
      const words = value === null ? "–" : this.tell(value);
      return h("li", {}, h(`span.dot.${colour}`), `${name} `, h("b", {}, words));
    });
    this.legend.replaceChildren(...(told.length ? told : [h("li", {}, "nothing yet")]));
    const back = (this.series[0]?.values.length ?? 0) - at;
    say(this.when, at === null ? "" : clock(this.until - back * this.span));
  }

  point(event, box) {
    const count = this.series[0]?.values.length;
    if (!count) return;
    const { left, width } = box.getBoundingClientRect();
    const at = Math.max(0, Math.min(count - 1, Math.floor(((event.clientX - left) / width) * count)));
    this.mark.hidden = false;
    this.mark.style.left = `${((at + 0.5) / count) * 100}%`;
    this.show(at);
  }

  leave() {
    this.mark.hidden = true;
    this.show(null);
  }
}

function ends(point) {
  const [x, y] = point.split(",").map(Number);
  return { x1: x - 2, x2: x + 2, y1: y, y2: y };
}

/** The next larger of 1, 2, 3, 5 times a power of ten. */
function nice(most) {
  if (most <= 0) return 1;
  const power = 10 ** Math.floor(Math.log10(most));
  return [1, 2, 3, 5, 10].find((step) => step * power >= most) * power;
}
