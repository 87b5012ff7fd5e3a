// What the server does: models, calls under way, usage, batches. Each asks only while it can be seen.

import { Refused, ask, askJson, count, find, isLockedOut, keys, make, span } from "./server.js";

const LIVE_MS = 1000;
const BATCHES_MS = 3000;
const LIVE_SHOWN = 3; // unless all are asked for
const USAGE_MS = 10000;
const MODELS_MS = 20000;
const DAY_S = 86400;
const FINAL = [403, 404, 405, 501]; // what will not be there later either, unless with another key

let model = "";
let showsAll = false;

/** The model that is chosen, by its name. */
export const chosenModel = () => model;

/** Keep all of it fresh. */
export function startPanels() {
  const panels = [
    new Panel(find("models"), MODELS_MS, showModels, "no-models", true),
    new Panel(find("live-title"), LIVE_MS, showLive, "no-live"),
    new Panel(find("usage-title"), USAGE_MS, showUsage, "no-usage"),
    new Panel(find("batches-title"), BATCHES_MS, showBatches, "no-batches"),
  ];
  const now = () => panels.forEach((panel) => panel.now());
  keys.addEventListener("changed", () => panels.forEach((panel) => panel.again()));
  document.addEventListener("visibilitychange", now);
  document.addEventListener("viewchange", now);
  find("more-live").addEventListener("click", () => {
    showsAll = !showsAll;
    now();
  });
  now();
}

class Panel {
  #timer = 0;
  #isAsking = false;
  #isLate = false; // it was to ask while it was asking
  #isMissing = false;

  constructor(element, everyMs, work, none, always = false) {
    Object.assign(this, { element, everyMs, work, always, none: find(none) });
    this.none.dataset.text = this.none.textContent;
  }

  again() {
    this.#isMissing = false;
    return this.now();
  }

  async now() {
    clearTimeout(this.#timer);
    if (this.#isAsking) {
      this.#isLate = true;
      return;
    }
    this.#isLate = false;
    const isSeen = !document.hidden && (this.always || this.element.getClientRects().length > 0);
    if (isSeen && !isLockedOut && !this.#isMissing) {
      this.#isAsking = true;
      await this.#ask();
      this.#isAsking = false;
    }
    if (!this.#isMissing || this.#isLate) this.#timer = setTimeout(() => this.now(), this.#isLate ? 0 : this.everyMs);
  }

  async #ask() {
    try {
      const isThere = await this.work();
      this.none.textContent = this.none.dataset.text;
      this.none.hidden = isThere;
    } catch (error) {
      if (FINAL.includes(error.status)) this.#isMissing = !this.#isLate;
      this.none.hidden = false;
      this.none.textContent = toldOf(error);
    }
  }
}

function toldOf(error) {
  if (!(error instanceof Refused)) return "The server's answer cannot be read.";
  return error.status === 501 || error.code === "no_route" ? "Not kept by this server." : error.message;
}

async function showModels() {
  const state = find("state");
  const alive = fetch("ready", { cache: "no-store" }).then((reply) => reply.json()).catch(() => ({}));
  try {
    const [listed, ready] = await Promise.all([askJson("v1/models"), alive]);
    const names = listed.data.map((one) => one.id);
    const states = ready.models ?? {};
    if (!names.includes(model)) choose(names[0] ?? "");
    for (const old of [...find("model-list").children]) if (!names.includes(old.dataset.name)) old.remove();
    names.forEach((name, at) => showModel(name, at, states[name]));
    const up = names.filter((name) => states[name]).length;
    state.textContent = up === names.length ? "ready" : `${up} of ${names.length} models ready`;
    state.dataset.is = up ? "up" : "down";
    return names.length > 0;
  } catch (error) {
    state.textContent = error.status === 401 ? "a key is needed" : "no connection";
    state.dataset.is = "down";
    throw error;
  }
}

function showModel(name, at, isUp) {
  const list = find("model-list");
  const is = isUp === undefined ? "unknown" : isUp ? "ready" : "down";
  let row = [...list.children].find((one) => one.dataset.name === name);
  if (!row) {
    const input = make("input", { type: "radio", name: "model", value: name, change: () => choose(name) });
    row = make("label", { "data-name": name }, input, make("span", { class: "name" }, name), make("span", { class: "is" }));
    list.insertBefore(row, list.children[at] ?? null);
  }
  row.firstChild.checked = name === model;
  row.lastChild.textContent = is;
  row.lastChild.dataset.is = is;
}

function choose(name) {
  model = name;
  find("chosen").textContent = name || "no model";
}

async function showLive() {
  const reply = await ask("server/live");
  const clock = Date.parse(reply.headers.get("date")) || Date.now(); // the server's, as its times are
  const calls = (await reply.json()).data;
  const button = find("more-live");
  button.hidden = calls.length <= LIVE_SHOWN;
  button.textContent = showsAll ? "Show fewer" : `Show all ${count(calls.length)}`;
  button.setAttribute("aria-expanded", showsAll);
  find("live").replaceChildren(
    ...calls.slice(0, showsAll ? undefined : LIVE_SHOWN).map((one) => {
      const tokens = ` · ${count(one.input_tokens)} in · ${count(one.output_tokens)} out`;
      const who = one.key ? ` · key ${one.key}` : "";
      const ms = clock - one.began_at * 1000;
      return make("li", {}, make("strong", {}, one.model), make("span", { class: "figure" }, ms < 1000 ? "< 1 s" : span(ms)),
        make("span", { class: "small" }, `${one.route}${who}${tokens}`));
    }),
  );
  return calls.length > 0;
}

async function showUsage() {
  const sums = new Map();
  const since = Math.floor(Date.now() / 1000) - DAY_S;
  for (const one of (await askJson(`server/usage?since=${since}`)).data) {
    const id = `${one.tenant} ${one.key}`;
    const sum = sums.get(id) ?? { name: one.name || one.key || "without a key", tenant: one.tenant, requests: 0, failures: 0, in: 0, out: 0, cost: 0, unpriced: 0 };
    sum.requests += one.requests;
    sum.failures += one.failures;
    sum.in += one.input_tokens;
    sum.out += one.output_tokens;
    sum.cost += one.cost_usd ?? 0;
    sum.unpriced += one.unpriced ?? 0;
    sums.set(id, sum);
  }
  const rows = [...sums.values()].sort((a, b) => b.cost - a.cost || b.in + b.out - a.in - a.out);
  find("usage").replaceChildren(
    ...rows.map((sum) => {
      const cost = sum.cost ? `$${sum.cost.toFixed(sum.cost < 1 ? 4 : 2)}` : sum.unpriced ? "no price" : "$0";
      const failed = sum.failures ? `, ${count(sum.failures)} failed` : "";
      return make("li", {}, make("strong", {}, sum.name), make("span", { class: "figure" }, cost),
        make("span", { class: "small" }, `${sum.tenant} · ${count(sum.requests)} ${sum.requests === 1 ? "request" : "requests"}${failed} · ${count(sum.in)} tokens in · ${count(sum.out)} out`));
    }),
  );
  return rows.length > 0;
}

async function showBatches() {
  const list = find("batches");
  const batches = (await askJson("v1/batches?limit=20")).data;
  for (const old of [...list.children]) if (!batches.some((one) => one.id === old.dataset.id)) old.remove();
  batches.forEach((batch, at) => {
    let row = [...list.children].find((one) => one.dataset.id === batch.id);
    row ??= newBatch(batch.id);
    if (list.children[at] !== row) list.insertBefore(row, list.children[at] ?? null);
    showBatch(row, batch);
  });
  return batches.length > 0;
}

function newBatch(id) {
  const cancel = make("button", { type: "button", hidden: true, click: () => cancelBatch(id, cancel), blur: () => calm(cancel) }, "Cancel");
  return make("li", { "data-id": id }, make("strong", {}, id), make("span", { class: "figure" }),
    make("progress", { "aria-label": `Progress of ${id}` }), make("span", { class: "small" }), cancel);
}

function showBatch(row, batch) {
  const { total = 0, completed = 0, failed = 0 } = batch.request_counts ?? {};
  const [, figure, progress, small, cancel] = row.children;
  figure.textContent = batch.status.replaceAll("_", " ");
  progress.max = total || 1;
  progress.value = completed + failed;
  small.textContent = `${count(completed)} of ${count(total)} done${failed ? `, ${count(failed)} failed` : ""}`;
  const isOver = !["validating", "in_progress", "finalizing"].includes(batch.status);
  if (isOver && cancel === document.activeElement) find("batches-title").focus();
  cancel.hidden = isOver;
}

function calm(button) {
  button.textContent = "Cancel";
  delete button.dataset.sure;
}

/** The first press asks whether it is meant. */
async function cancelBatch(id, button) {
  if (!button.dataset.sure) {
    button.dataset.sure = "1";
    button.textContent = "Really cancel?";
    return;
  }
  calm(button);
  try {
    const batch = await askJson(`v1/batches/${encodeURIComponent(id)}/cancel`, { method: "POST" });
    showBatch(button.parentElement, batch);
  } catch (error) {
    button.previousElementSibling.textContent = toldOf(error);
  }
}
