// Elements and numbers. Whatever is told by somebody else becomes a text node, never markup.

/** An element: h("td.num", {title}, "text", child, ...). */
export function h(what, props = {}, ...children) {
  const [tag, ...classes] = what.split(".");
  const node = document.createElement(tag);
  if (classes.length) node.className = classes.join(" ");
  for (const [name, value] of Object.entries(props)) {
    if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else if (name in node && name !== "list") node[name] = value;
    else node.setAttribute(name, value);
  }
  node.append(...children.filter((child) => child !== null && child !== undefined && child !== false));
  return node;
}

const SVG = "http://www.w3.org/2000/svg";

export function svg(tag, attributes = {}, ...children) {
  const node = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
  node.append(...children);
  return node;
}

/** Set a text only where it is another one: selections stay, nothing is laid out anew. */
export function say(node, text) {
  const said = String(text);
  if (node.textContent !== said) node.textContent = said;
}

/** Have a parent hold one child for each item, in their order; those that stay are the same elements. */
export function each(parent, items, key, make) {
  const known = parent.known ?? (parent.known = new Map());
  const seen = new Set();
  let at = parent.firstElementChild;
  for (const item of items) {
    const name = key(item);
    if (seen.has(name)) continue;
    seen.add(name);
    let row = known.get(name);
    if (!row) known.set(name, (row = make(item)));
    row.update(item);
    if (row.node === at) at = at.nextElementSibling;
    else parent.insertBefore(row.node, at);
  }
  for (const [name, row] of known) {
    if (!seen.has(name)) {
      row.node.remove();
      known.delete(name);
    }
  }
}

/** A heading with what belongs to it below. */
export function panel(title, note, ...children) {
  return h("section.panel", {}, h("h2", {}, title, note ? h("small", {}, note) : null), ...children);
}

/** Tell of an error, wherever it is met: `app.js` shows it. */
export function fail(error) {
  dispatchEvent(new CustomEvent("hermes-error", { detail: error }));
}

// --- numbers ---------------------------------------------------------------------------------------------------------

export function duration(ms) {
  if (ms === null || ms === undefined) return "–";
  if (ms < 1000) return `${Math.round(ms)} ms`;
  const s = ms / 1000;
  if (s < 10) return `${s.toFixed(1)} s`;
  if (s < 100) return `${Math.round(s)} s`;
  if (s < 6000) return `${Math.floor(s / 60)}:${String(Math.round(s % 60) % 60).padStart(2, "0")} min`;
  return s < 172800 ? `${(s / 3600).toFixed(1)} h` : `${Math.round(s / 86400)} d`;
}

export function bytes(n) {
  if (!n) return "0";
  const gib = n / 2 ** 30;
  if (gib >= 0.1) return `${gib < 100 ? gib.toFixed(1) : Math.round(gib)} GiB`;
  return `${Math.round(n / 2 ** 20)} MiB`;
}

export function count(n) {
  if (n < 10_000) return n.toLocaleString("en");
  if (n < 1e6) return `${(n / 1e3).toFixed(n < 1e5 ? 1 : 0)} k`;
  return n < 1e9 ? `${(n / 1e6).toFixed(1)} M` : `${(n / 1e9).toFixed(1)} G`;
}

export function rate(n) {
  if (n === undefined) return "–";
  return n === 0 ? "0" : n < 10 ? n.toFixed(n < 0.1 ? 2 : 1) : count(Math.round(n));
}

export function clock(unix) {
  return new Date(unix * 1000).toLocaleTimeString([], { hour12: false });
}

/** Without the tag that every name has. */
export function short(model) {
  return model.replace(/:latest$/, "");
}

const STEP_S = 600;
const HOUR_S = 3600;

/** How much of the last hour is worth showing, in seconds: all of it, or what there is since the start. */
export function stretch(uptime) {
  return Math.min(HOUR_S, Math.ceil((uptime + 1) / STEP_S) * STEP_S);
}

export function stretchName(seconds) {
  return seconds === HOUR_S ? "Last hour" : `Last ${seconds / 60} minutes`;
}

/** Below a chart: from when on, and its middle. */
export function axis() {
  const [from, middle] = [h("span"), h("span")];
  const node = h("div.axis", {}, from, middle, h("span", {}, "now"));
  const show = (seconds) => {
    say(from, seconds === HOUR_S ? "an hour ago" : `${seconds / 60} min ago`);
    say(middle, `${seconds / 120} min`);
  };
  return { node, show };
}

// --- colours ---------------------------------------------------------------------------------------------------------

const colours = new Map();

/** The class that gives a model its colour: the same one everywhere, for as long as the page is open. */
export function colour(model) {
  const name = short(model);
  if (!colours.has(name)) colours.set(name, `m${colours.size % 8}`);
  return colours.get(name);
}
