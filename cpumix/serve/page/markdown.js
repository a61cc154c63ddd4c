// Markdown to elements. HTML in a text stays text (markdown-it passes none on), DOMPurify lets only
// harmless elements through, and images, which could ask other servers, are left as links.

import { copyButton, make } from "./elements.js";

const parser = window.markdownit({ html: false, linkify: true, breaks: true });
parser.disable("image");
parser.linkify.set({ fuzzyLink: false, fuzzyEmail: false });
// The page allows no style attributes: a column's alignment becomes a class.
parser.core.ruler.push("alignment", ({ tokens }) => {
  for (const token of tokens) {
    const style = token.attrGet("style");
    if (!style) continue;
    token.attrs = token.attrs.filter(([name]) => name !== "style");
    token.attrSet("class", style.replace("text-align:", "align-"));
  }
});
const ALLOWED = (
  "a blockquote br code del em h1 h2 h3 h4 h5 h6 hr li ol p pre s strong " +
  "table tbody td th thead tr ul"
).split(" ");

export function render(text) {
  const fragment = window.DOMPurify.sanitize(parser.render(text), {
    ALLOWED_TAGS: ALLOWED,
    ALLOWED_ATTR: ["href", "class", "start"],
    RETURN_DOM_FRAGMENT: true,
  });
  for (const link of fragment.querySelectorAll("a")) {
    link.target = "_blank";
    link.rel = "noopener noreferrer";
  }
  for (const table of fragment.querySelectorAll("table")) wrap(table, "table");
  for (const block of fragment.querySelectorAll("pre")) {
    const code = block.querySelector("code") ?? block;
    const language = /language-([\w+#.-]+)/.exec(code.className)?.[1] ?? "";
    const name = make("span", { textContent: language || "text" });
    const copy = copyButton("Copy the code", () => code.textContent);
    const head = make("div", { className: "code-head" }, name, copy);
    block.tabIndex = 0; // so that the keys can scroll it
    block.setAttribute("role", "group");
    block.setAttribute("aria-label", `Code, ${language || "text"}`);
    wrap(block, "code").prepend(head);
  }
  return fragment;
}

function wrap(element, name) {
  const outer = make("div", { className: `${name}-block` });
  if (name === "table") {
    outer.tabIndex = 0;
    outer.setAttribute("role", "group");
    outer.setAttribute("aria-label", "Table");
  }
  element.replaceWith(outer);
  outer.append(element);
  return outer;
}
