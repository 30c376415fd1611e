// The page: which view is shown, and what each is told.

import { forgetKey, get, hasKey, listen } from "./api.js";
import { say } from "./dom.js";
import { Models } from "./models.js";
import { Now } from "./now.js";
import { Playground } from "./play.js";
import { Requests } from "./requests.js";
import { Usage } from "./usage.js";

const HISTORY_MS = 10_000;
const find = (id) => document.getElementById(id);

const views = {
  now: new Now(find("view-now")),
  requests: new Requests(find("view-requests")),
  models: new Models(find("view-models")),
  usage: new Usage(find("view-usage")),
  play: new Playground(find("view-play")),
};
let shown = "";
let state = null;

async function show() {
  const name = location.hash.slice(1);
  const wanted = name in views ? name : "now";
  if (wanted === shown) return;
  shown = wanted;
  for (const [each, view] of Object.entries(views)) {
    view.root.hidden = each !== shown;
    const link = document.querySelector(`nav a[href="#${each}"]`);
    if (each === shown) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
  await views[shown].open?.(state);
  if (state) views[shown].state?.(state);
}

const WORDS = { ok: "serving", draining: "draining", no_backend: "no backend" };

function heard(event, data) {
  if (event === "state") {
    state = data;
    say(find("state"), WORDS[data.status] ?? data.status);
    find("state").dataset.state = data.status;
    const simulated = data.backends.some((backend) => backend.simulated) ? " · simulated" : "";
    say(find("about"), `${data.version} · ${data.you.user}${data.you.admin ? " (operator)" : ""}${simulated}`);
    find("key").hidden = !hasKey();
    views[shown].state?.(data);
  } else if (event === "request" && data.class) {
    views.now.ended(data);
    views.requests.ended(data);
  }
}

async function changed(connected) {
  if (!connected) {
    say(find("state"), "not connected");
    find("state").dataset.state = "lost";
    return;
  }
  await Promise.all([views.requests.load(), look()]).catch(report);
  views.now.recent(views.requests.rows);
}

let looking = 0;

async function look() {
  clearTimeout(looking);
  if (!document.hidden) {
    try {
      views.now.history(await get("v1/history"));
    } catch (error) {
      report(error);
    }
  }
  clearTimeout(looking); // of who asked meanwhile
  looking = setTimeout(look, HISTORY_MS);
}

function report(error) {
  if (error instanceof TypeError) return; // not connected: that is told already
  say(find("toast"), error.message);
  find("toast").hidden = false;
  setTimeout(() => (find("toast").hidden = true), 6000);
}

addEventListener("hermes-error", (event) => report(event.detail));
addEventListener("hermes-moved", look);
addEventListener("hashchange", show);
find("key").addEventListener("click", forgetKey);
show();
listen(heard, changed);
