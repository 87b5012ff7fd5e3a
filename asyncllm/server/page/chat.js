// Conversations: what is asked, the answer as it comes, and what it came to. They live in this page alone.

import { Refused, ask, count, find, make, span } from "./server.js";
import { eventsOf } from "./sse.js";

const log = find("log");
const question = find("question");
const turns = [];
let running = null; // who ends the answer that is under way
let modelOf = () => "";

/** Make the form work. `chosen` says which model is asked. */
export function startChat(chosen) {
  modelOf = chosen;
  find("ask").addEventListener("submit", (event) => {
    event.preventDefault();
    send();
  });
  question.addEventListener("keydown", (event) => {
    if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
    event.preventDefault();
    send();
  });
  document.addEventListener("keydown", (event) => {
    if (event.key === "Escape" && !find("key").open) stop();
  });
  find("stop").addEventListener("click", stop);
  find("clear").addEventListener("click", clear);
}

function stop() {
  running?.abort();
}

function clear() {
  stop();
  for (const turn of turns.splice(0)) turn.element.remove();
  find("hint").hidden = false;
  find("clear").disabled = true;
  question.focus();
}

function send() {
  const text = question.value;
  if (running || !text.trim()) return;
  const wrong = document.querySelector("#models input:invalid");
  if (wrong) {
    document.querySelector("[data-show=models]").click(); // where it is, on a small screen
    wrong.reportValidity();
    return;
  }
  question.value = "";
  turns.at(-1)?.again?.remove();
  find("hint").hidden = true;
  find("clear").disabled = false;
  const turn = new Turn(text);
  turns.push(turn);
  log.append(turn.element);
  answer(turn);
}

/** What is sent: the turns that came to something, and the question of this one. */
function bodyOf(turn) {
  const messages = [];
  const system = find("system").value;
  if (system.trim()) messages.push({ role: "system", content: system });
  for (const one of turns.slice(0, turns.indexOf(turn))) {
    if (!one.text) continue;
    messages.push({ role: "user", content: one.question }, { role: "assistant", content: one.text });
  }
  messages.push({ role: "user", content: turn.question });
  const body = { model: modelOf(), messages, stream: true, stream_options: { include_usage: true } };
  for (const name of ["temperature", "top_p", "max_tokens"]) {
    const value = find(name).valueAsNumber;
    if (!Number.isNaN(value)) body[name] = value;
  }
  return body;
}

async function answer(turn) {
  const ending = (running = new AbortController());
  busy(true);
  turn.begin(modelOf());
  try {
    const reply = await ask("v1/chat/completions", { method: "POST", body: bodyOf(turn), signal: ending.signal });
    let isWhole = false;
    for await (const data of eventsOf(reply.body)) {
      if (data === "[DONE]") isWhole = true; // the body ends too, which leaves the connection for others
      else turn.take(JSON.parse(data));
    }
    if (!isWhole) throw new Refused("The answer broke off before its end.", 0);
    turn.end("");
  } catch (error) {
    if (ending.signal.aborted) turn.end("stopped");
    else turn.fail(error instanceof Refused ? error.message : "The answer broke off before its end.");
  } finally {
    running = null;
    busy(false);
  }
}

function busy(is) {
  const here = document.activeElement;
  const moves = here === find("send") || here === find("stop") || here === document.body;
  find("send").hidden = is;
  find("stop").hidden = !is;
  // The button that had the focus has gone.
  if (moves) (is ? find("stop") : question).focus();
}

/** A question and its answer. */
class Turn {
  constructor(asked) {
    this.question = asked;
    this.text = "";
    this.element = make("div", { class: "turn" }, make("article", { class: "asked", "aria-label": "You", dir: "auto" }, asked));
  }

  begin(model) {
    this.answer?.remove();
    Object.assign(this, { model, text: "", thought: "", calls: [], usage: null, reason: "", first: 0, painting: 0 });
    this.began = performance.now();
    this.body = make("div", { class: "text", dir: "auto" });
    this.thinking = make("details", { class: "thought", hidden: true }, make("summary", {}, "Reasoning"), make("div", { dir: "auto" }));
    this.facts = make("p", { class: "facts" }, "waiting for the first word");
    this.tools = make("div", { class: "tools" });
    this.answer = make("article", { class: "answer", "aria-label": `Answer of ${model}`, "aria-busy": "true" },
      this.thinking, this.body, make("footer", {}, this.facts, this.tools));
    this.element.append(this.answer);
    this.speech = new Speech();
    log.scrollTop = log.scrollHeight;
  }

  take(chunk) {
    if (chunk.error) throw new Refused(chunk.error.message ?? "The answer failed.", 0);
    if (chunk.usage) this.usage = chunk.usage;
    const choice = chunk.choices?.[0];
    if (!choice) return;
    const delta = choice.delta ?? {};
    const text = (delta.content ?? "") + (delta.refusal ?? "");
    this.text += text;
    this.thought += delta.reasoning_content ?? "";
    for (const call of delta.tool_calls ?? []) {
      const one = (this.calls[call.index] ??= { name: "", arguments: "" });
      one.name += call.function?.name ?? "";
      one.arguments += call.function?.arguments ?? "";
    }
    if (choice.finish_reason) this.reason = choice.finish_reason;
    if (!this.first && (text || delta.reasoning_content || delta.tool_calls)) {
      this.first = performance.now();
      this.facts.textContent = `first token after ${span(this.first - this.began)}`;
    }
    this.speech.say(text);
    this.painting ||= requestAnimationFrame(() => this.paint());
  }

  end(note) {
    const follow = this.close();
    this.facts.textContent = this.account(note).join(" · ");
    if (this.text) this.tools.append(make("button", { type: "button", click: (event) => this.copy(event.target) }, "Copy"));
    if (!this.text) this.offerAgain();
    follow();
    this.speech.end(note || "Answer complete.");
  }

  fail(message) {
    const follow = this.close();
    this.facts.textContent = this.first ? this.account("failed").join(" · ") : "";
    this.body.after(make("p", { class: "error", role: "alert" }, message));
    this.offerAgain();
    follow();
    this.speech.end("");
  }

  close() {
    const follow = following();
    cancelAnimationFrame(this.painting);
    this.paint();
    this.answer.removeAttribute("aria-busy");
    return follow;
  }

  /** Until another question is asked, whose answer would have this one in mind. */
  offerAgain() {
    const again = () => {
      question.focus();
      answer(this);
    };
    this.again = make("button", { type: "button", click: again }, "Try again");
    this.tools.append(this.again);
  }

  account(note) {
    const ended = performance.now();
    const facts = [this.model];
    const given = this.usage?.completion_tokens;
    if (this.usage) facts.push(`${count(this.usage.prompt_tokens)} tokens in`, `${count(given)} out`);
    if (this.first) {
      facts.push(`first token ${span(this.first - this.began)}`);
      const s = (ended - this.first) / 1000;
      if (given > 1 && s > 0) facts.push(`${count(Math.round((given - 1) / s))} tokens/s`);
    }
    if (this.reason && this.reason !== "stop") facts.push(this.reason === "length" ? "cut off at max tokens" : this.reason);
    if (note) facts.push(note);
    return facts;
  }

  paint() {
    this.painting = 0;
    const follow = following();
    if (this.thought) {
      this.thinking.hidden = false;
      this.thinking.lastChild.textContent = this.thought;
    }
    const blocks = blocksOf(this.text);
    for (const call of this.calls) if (call) blocks.push({ isCode: true, text: `${call.name}(${call.arguments})` });
    show(this.body, blocks);
    follow();
  }

  async copy(button) {
    let told = "Copied";
    try {
      await navigator.clipboard.writeText(this.text);
    } catch {
      getSelection().selectAllChildren(this.body); // no clipboard over plain HTTP: the keyboard's copy takes it
      told = "Selected";
    }
    button.textContent = told;
    setTimeout(() => (button.textContent = "Copy"), 1500);
  }
}

/** What keeps the end of the conversation in view after it has grown, for whoever had it in view before. */
function following() {
  const isAtEnd = log.scrollHeight - log.scrollTop - log.clientHeight < 80;
  return () => isAtEnd && (log.scrollTop = log.scrollHeight);
}

/** A text in turns of prose and of what stands between fences. */
function blocksOf(text) {
  const blocks = [];
  let lines = [];
  let isCode = false;
  const close = () => {
    const joined = lines.join("\n");
    const shown = isCode ? joined : joined.replace(/^\n+|\n+$/g, "");
    if (isCode || shown) blocks.push({ isCode, text: shown });
    lines = [];
  };
  for (const line of text.split("\n")) {
    if (!/^ {0,3}```/.test(line)) {
      lines.push(line);
      continue;
    }
    close();
    isCode = !isCode;
  }
  if (lines.length) close();
  return blocks;
}

const MARKED = /(`[^`\n]+`|\*\*[^*\n]+\*\*)/;
const bare = (part, at) => (at % 2 ? (part[0] === "`" ? part.slice(1, -1) : part.slice(2, -2)) : part);
const inline = (part, at) => (at % 2 ? make(part[0] === "`" ? "code" : "strong", {}, bare(part, at)) : part);

/** Blocks as elements: those that are there already and the same stay, so that what is selected in them stays too. */
function show(body, blocks) {
  blocks.forEach((block, at) => {
    const tag = block.isCode ? "PRE" : "P";
    let there = body.children[at];
    if (there?.tagName !== tag) {
      const made = make(tag, block.isCode ? { tabindex: 0 } : {}, document.createTextNode(""));
      if (there) there.replaceWith(made);
      else body.append(made);
      there = made;
    }
    const parts = block.isCode ? [block.text] : block.text.split(MARKED);
    if (parts.length > 1) {
      if (there.textContent !== parts.map(bare).join("")) there.replaceChildren(...parts.map(inline));
    } else if (there.childNodes.length === 1 && block.text.startsWith(there.firstChild.data)) {
      there.firstChild.appendData(block.text.slice(there.firstChild.data.length));
    } else there.replaceChildren(document.createTextNode(block.text));
  });
  while (body.children.length > blocks.length) body.lastChild.remove();
}

/** Tells a screen reader the answer by whole sentences, each once, some at a time. */
class Speech {
  #waiting = "";
  #timer = 0;

  say(text) {
    this.#waiting += text;
    this.#timer ||= setTimeout(() => this.#tell(), 1500);
  }

  end(note) {
    clearTimeout(this.#timer);
    find("said").textContent = `${this.#waiting} ${note}`.trim();
    setTimeout(() => {
      if (!running) find("said").textContent = ""; // it stands in the conversation
    }, 5000);
  }

  #tell() {
    this.#timer = 0;
    const end = Math.max(...[". ", "! ", "? ", "\n"].map((mark) => this.#waiting.lastIndexOf(mark)));
    if (end < 0) return;
    find("said").textContent = this.#waiting.slice(0, end + 1);
    this.#waiting = this.#waiting.slice(end + 1);
  }
}
