// Asking the server that this page came from, with a key where one is needed; and what all parts make elements with.

const KEPT = "asyncllm.key";
let key = kept();

/** What the server refuses, in its own words. */
export class Refused extends Error {
  constructor(message, status, code) {
    super(message);
    this.status = status;
    this.code = code;
  }
}

/** Hears `wanted` when a key is needed or another one is, and `changed` when there is another. */
export const keys = new EventTarget();

/** Whether the last answer was that the key is missing or no good. */
export let isLockedOut = false;

export const hasKey = () => key !== "";

/** The key for all that is asked from now on, empty for none; it outlives the page only where `keep` is true. */
export function useKey(text, keep) {
  key = text;
  isLockedOut = false;
  try {
    if (text && keep) sessionStorage.setItem(KEPT, text);
    else sessionStorage.removeItem(KEPT);
  } catch {} // a browser that keeps nothing
  keys.dispatchEvent(new Event("changed"));
}

/** The reply of a route, whose address is relative to the page. Throws `Refused`, and what aborting throws. */
export async function ask(path, { method = "GET", body, signal } = {}) {
  const headers = {};
  const used = key;
  if (used) headers.authorization = `Bearer ${used}`;
  if (body !== undefined) headers["content-type"] = "application/json";
  const sent = body === undefined ? undefined : JSON.stringify(body);
  let reply;
  try {
    reply = await fetch(path, { method, headers, body: sent, signal, cache: "no-store" });
  } catch (error) {
    throw error.name === "AbortError" ? error : new Refused("The server does not answer.", 0);
  }
  if (reply.ok) return reply;
  const refused = await refusalOf(reply);
  if (reply.status === 401 && used === key) { // or else there has been another since
    isLockedOut = true;
    keys.dispatchEvent(new CustomEvent("wanted", { detail: used ? refused.message : "" }));
  }
  throw refused;
}

/** The same, as a document. */
export async function askJson(path, options) {
  return (await ask(path, options)).json();
}

async function refusalOf(reply) {
  try {
    const told = (await reply.json()).error;
    if (typeof told.message === "string") return new Refused(told.message, reply.status, told.code);
  } catch {} // something that stands before the server has answered
  return new Refused(`The server answered with status ${reply.status}.`, reply.status);
}

function kept() {
  try {
    return sessionStorage.getItem(KEPT) ?? "";
  } catch {
    return "";
  }
}

export const find = (id) => document.getElementById(id);

/** An element. Children that are texts become texts, whatever stands in them. */
export function make(tag, attributes = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (typeof value === "function") made.addEventListener(name, value);
    else if (value === true) made.setAttribute(name, "");
    else if (value !== false && value != null) made.setAttribute(name, value);
  }
  made.append(...children);
  return made;
}

const whole = new Intl.NumberFormat("en");

/** A count as people write it. */
export const count = (number) => (typeof number === "number" ? whole.format(number) : "–");

/** A span of time, given in milliseconds. */
export function span(ms) {
  if (ms < 1000) return `${Math.max(0, Math.round(ms))} ms`;
  const s = ms / 1000;
  if (s < 60) return `${s.toFixed(s < 10 ? 1 : 0)} s`;
  return s < 3600 ? `${Math.floor(s / 60)} min ${Math.floor(s % 60)} s` : `${Math.floor(s / 3600)} h ${Math.floor((s % 3600) / 60)} min`;
}
