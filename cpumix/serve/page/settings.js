// The settings: what is not changed is the server's own default, and is not sent.

import { at, make } from "./elements.js";
import * as store from "./store.js";

// The body's name, and the range of the slider. A box beside it takes any number up to `most`.
const SLIDERS = [
  { id: "temperature", label: "Temperature", low: 0, high: 1, step: 0.05, most: 2,
    about: "0 always takes the likeliest word; higher is more surprising." },
  { id: "max_tokens", label: "Max new tokens", low: 0, high: 1048, step: 64, least: 1,
    about: "How long an answer may be. “Continue” goes on with one that was cut." },
  { id: "top_p", label: "Top-p", low: 0.05, high: 1, step: 0.05, most: 1,
    about: "Draws among the likeliest words that have this share together." },
  { id: "repetition_penalty", label: "Repetition penalty", low: 1, high: 2, step: 0.05, most: 2,
    about: "Above 1, words that were used become less likely." },
];
const MAX_TOKENS = 256;
let defaults = { temperature: 0.8, max_tokens: MAX_TOKENS, top_p: 0.95, repetition_penalty: 1 };
let changed = store.setting("settings", {});

export function build(key) {
  at("sliders").replaceChildren(...SLIDERS.map(slider));
  at("system").value = changed.system ?? "";
  at("system").oninput = () => change("system", at("system").value);
  at("reset").onclick = () => {
    changed = {};
    store.set("settings", changed);
    at("system").value = "";
    showAll();
  };
  at("key").value = store.key.get();
  at("key").onchange = () => key(at("key").value);
  const theme = document.documentElement.dataset;
  for (const choice of at("theme").querySelectorAll("input")) {
    choice.checked = choice.value === theme.theme;
    choice.onchange = () => {
      theme.theme = choice.value;
      store.lasting.set("theme", choice.value);
    };
  }
  at("open-settings").onclick = () => at("settings").showModal();
  closeOutside(at("settings"));
  showAll();
}

export function closeOutside(dialog) {
  dialog.addEventListener("click", (event) => {
    if (event.target === dialog) dialog.close("cancel");
  });
}

// Take the defaults of a model.
export function setDefaults(model) {
  const { temperature, top_p, repeat_penalty } = model.sampling;
  const max_tokens = Math.min(MAX_TOKENS, model.max_model_len);
  defaults = { temperature, top_p, repetition_penalty: repeat_penalty, max_tokens };
  SLIDERS.find(({ id }) => id === "max_tokens").most = model.max_model_len;
  showAll();
}

// What is sent of the settings.
export function fields() {
  const { system: _, ...sent } = changed;
  return { max_tokens: defaults.max_tokens, ...sent };
}

export function system() {
  return (changed.system ?? "").trim();
}

function slider({ id, label, low, high, step, least, about }) {
  const range = make("input", { type: "range", id, min: low, max: high, step });
  const box = make("input", { type: "number", id: `${id}-box`, min: least ?? low, step: "any" });
  box.setAttribute("aria-label", `${label}, as a number`);
  range.setAttribute("aria-describedby", `${id}-about`);
  range.oninput = () => change(id, Math.max(Number(range.value), least ?? low));
  box.onchange = () => {
    const { most } = SLIDERS.find((other) => other.id === id);
    const number = Math.min(Math.max(Number(box.value), least ?? low), most ?? high);
    if (box.value !== "") change(id, id === "max_tokens" ? Math.round(number) : number);
    show(id);
  };
  const head = make("div", { className: "slider-head" }, make("label", { htmlFor: id, textContent: label }), box);
  const told = make("p", { className: "about", id: `${id}-about`, textContent: about });
  return make("div", { className: "slider" }, head, range, told);
}

function change(id, value) {
  if (value === defaults[id] || (id === "system" && !value)) delete changed[id];
  else changed[id] = value;
  store.set("settings", changed);
  if (id !== "system") show(id);
}

function showAll() {
  for (const { id } of SLIDERS) show(id);
}

function show(id) {
  const value = changed[id] ?? defaults[id];
  at(id).value = value;
  at(id).setAttribute("aria-valuetext", String(value));
  at(`${id}-box`).value = value;
  at(`${id}-box`).max = SLIDERS.find((other) => other.id === id).most ?? at(id).max;
}
