// The start of the page: its views, its colours, and its key.

import { startChat } from "./chat.js";
import { chosenModel, startPanels } from "./panels.js";
import { askJson, find, hasKey, keys, useKey } from "./server.js";

const THEMES = ["auto", "light", "dark"];
const dialog = find("key");
const text = find("key-text");

function startViews() {
  const buttons = [...document.querySelectorAll("[data-show]")];
  const show = (view) => {
    document.body.dataset.view = view;
    for (const button of buttons) {
      if (button.dataset.show === view) button.setAttribute("aria-current", "page");
      else button.removeAttribute("aria-current");
    }
    document.dispatchEvent(new Event("viewchange"));
  };
  for (const button of buttons) button.addEventListener("click", () => show(button.dataset.show));
}

function startTheme() {
  const use = (theme) => {
    document.documentElement.dataset.theme = theme;
    find("theme-name").textContent = theme;
  };
  let theme = "auto";
  try {
    theme = THEMES.find((one) => one === localStorage.getItem("asyncllm.theme")) ?? theme;
  } catch {} // a browser that keeps nothing
  use(theme);
  find("theme").addEventListener("click", () => {
    theme = THEMES[(THEMES.indexOf(theme) + 1) % THEMES.length];
    use(theme);
    try {
      localStorage.setItem("asyncllm.theme", theme);
    } catch {}
  });
}

function startKey() {
  const open = (why) => {
    find("key-why").textContent = why;
    find("key-forget").hidden = !hasKey();
    if (!dialog.open) dialog.showModal();
    text.focus();
  };
  const use = (value, keep) => {
    text.value = "";
    dialog.close();
    useKey(value, keep);
  };
  keys.addEventListener("wanted", (event) => open(event.detail));
  find("use-key").addEventListener("click", () => open(""));
  find("key-cancel").addEventListener("click", () => dialog.close());
  find("key-forget").addEventListener("click", () => use("", false));
  dialog.addEventListener("close", () => (text.value = ""));
  find("key-form").addEventListener("submit", (event) => {
    event.preventDefault();
    const value = text.value.trim();
    if (/^[\x21-\x7e]+$/.test(value)) use(value, find("key-keep").checked);
    else find("key-why").textContent = value ? "A key has no spaces and no letters beyond ASCII." : "Give a key, or cancel.";
  });
}

startViews();
startTheme();
startKey();
startChat(chosenModel);
startPanels();
askJson("version").then((told) => (find("version").textContent = told.version), () => {});
find("question").focus();
