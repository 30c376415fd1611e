// Every model that may be used: where it is loaded; for operators to load, to unload and to pull.

import { get, modelPath, pieces, Refused, send } from "./api.js";
import { bytes, colour, each, fail, h, panel, say, short } from "./dom.js";

const LIST_MS = 10_000;

export class Models {
  constructor(root) {
    this.root = root;
    this.body = h("tbody");
    this.name = h("input", { type: "text", placeholder: "phi4-mini", "aria-label": "Model to pull", required: true, spellcheck: false, autocapitalize: "off" });
    this.pulls = h("ul.pulls");
    this.form = h("form.pull", {}, this.name, h("button.primary", { type: "submit" }, "Pull"));
    this.form.addEventListener("submit", (event) => {
      event.preventDefault();
      const model = this.name.value.trim();
      if (model) this.pull(model);
      this.name.value = "";
    });
    this.operators = panel("Pull a model", "it is downloaded, then loaded", this.form, this.pulls);
    const head = h("tr", {}, h("th", {}, "Model"), h("th", {}, "Can"), h("th", {}, "In memory"), h("th.num", {}, "Running"), h("th.num", {}, "Waiting"), h("th"));
    root.append(
      panel("Models", "", h("div.scroll", {}, h("table.models", {}, h("thead", {}, head), this.body))),
      this.operators,
    );
    this.listed = [];
    this.at = 0;
  }

  async open() {
    try {
      this.at = Date.now();
      this.listed = (await get("v1/models")).data;
    } catch (error) {
      fail(error);
    }
  }

  async state(state) {
    if (Date.now() - this.at > LIST_MS) await this.open();
    this.operators.hidden = !state.you.admin;
    const where = (name) =>
      state.backends.flatMap((backend) =>
        backend.loaded
          .filter((model) => short(model.name) === short(name))
          .map((model) => `${backend.name} (${bytes(model.vram_bytes || model.size_bytes)})`),
      );
    const coming = (name) =>
      state.backends.flatMap((backend) =>
        (backend.changes ?? []).filter((change) => short(change.model) === short(name)).map(() => `${backend.name}, loading`),
      );
    const rows = this.listed.map((model) => ({
      ...model,
      where: where(model.id),
      coming: coming(model.id),
      load: state.models[model.id] ?? {},
      admin: state.you.admin,
    }));
    each(this.body, rows, (row) => row.id, modelRow);
  }

  async pull(model) {
    const words = h("span.muted", {}, "asked for");
    const bar = h("progress", { max: 1 });
    const row = h("li", {}, h("b", {}, model), bar, words);
    this.pulls.prepend(row);
    try {
      const answer = await send("POST", modelPath(model, "pull"));
      for await (const line of pieces(answer, "\n")) {
        const told = JSON.parse(line);
        if (told.error) throw new Refused(told.error.message, 200, told.error.code);
        if (told.total) bar.value = (told.completed ?? 0) / told.total;
        const much = told.total ? `, ${bytes(told.completed ?? 0)} of ${bytes(told.total)}` : "";
        say(words, told.done ? (told.loaded ? "is here, and loaded" : "is here") : `${told.status}${much}`);
      }
      bar.value = 1;
      row.classList.add("done");
    } catch (error) {
      say(words, error.message);
      row.classList.add("bad");
      bar.remove();
    }
    this.open();
  }
}

function modelRow(model) {
  const [where, running, waiting] = [h("td"), h("td.num"), h("td.num")];
  const button = h("button.quiet", { type: "button" }, "Load");
  const node = h(
    "tr",
    {},
    h("td.clip", { title: model.id }, h(`span.dot.${colour(model.id)}`), short(model.id)),
    h("td.muted", {}, (model.capabilities ?? []).join(", ")),
    where,
    running,
    waiting,
    h("td.end", {}, button),
  );
  let loaded = false;
  let busy = false;
  button.addEventListener("click", async () => {
    busy = button.disabled = true;
    const verb = loaded ? "unload" : "load";
    say(button, `${verb}ing`);
    try {
      await send("POST", modelPath(model.id, verb));
    } catch (error) {
      fail(error);
    }
    busy = button.disabled = false;
  });
  return {
    node,
    update(told) {
      loaded = told.where.length > 0;
      say(where, [...told.where, ...told.coming].join(", ") || "–");
      say(running, told.load.active || "·");
      say(waiting, told.load.queued || "·");
      button.hidden = !told.admin;
      if (!busy) say(button, loaded ? "Unload" : "Load");
    },
  };
}
