// Small things that every part of the page uses.

export const at = (id) => document.getElementById(id);

// Make an element; properties are set, and children appended.
export function make(name, properties = {}, ...children) {
  const element = Object.assign(document.createElement(name), properties);
  element.append(...children);
  return element;
}

export function icon(name) {
  const space = "http://www.w3.org/2000/svg";
  const svg = document.createElementNS(space, "svg");
  const use = document.createElementNS(space, "use");
  use.setAttribute("href", `#i-${name}`);
  svg.setAttribute("aria-hidden", "true");
  svg.append(use);
  return svg;
}

// A button that is only an icon: `label` is its name for those who do not see it.
export function iconButton(name, label, act) {
  const button = make("button", { type: "button", className: "icon", title: label }, icon(name));
  button.setAttribute("aria-label", label);
  button.onclick = act;
  return button;
}

// A button that copies what `text()` returns, and shows that it did.
export function copyButton(label, text) {
  const button = iconButton("copy", label, async () => {
    await copy(text());
    button.replaceChildren(icon("done"));
    say("Copied");
    setTimeout(() => button.replaceChildren(icon("copy")), 1500);
  });
  return button;
}

async function copy(text) {
  if (navigator.clipboard) return navigator.clipboard.writeText(text);
  // Browsers offer no clipboard to pages that came by http from another machine.
  const area = make("textarea", { value: text, className: "hidden" });
  const before = document.activeElement;
  document.body.append(area);
  area.select();
  document.execCommand("copy");
  area.remove();
  before?.focus();
}

// Tell those who do not see the page.
export function say(text) {
  at("said").textContent = text;
}

export function size(area, most = 0.4) {
  area.style.height = "auto";
  area.style.height = `${Math.min(area.scrollHeight + 2, window.innerHeight * most)}px`;
}

// Whether a key press sends: Enter does, unless it ends the writing of a character (as in Japanese)
// or comes from a touch keyboard, which has no Shift+Enter.
export function sends(event) {
  const touch = window.matchMedia("(pointer: coarse)").matches;
  return event.key === "Enter" && !event.shiftKey && !event.isComposing && !touch;
}
