// Shows the messages of a conversation, with what can be done with each.

import { shown, siblings } from "./conversation.js";
import { at, copyButton, iconButton, make, sends, size } from "./elements.js";
import { render } from "./markdown.js";

export class Log {
  // `acts`: what can be done (edit, answer, again, goOn, choose).
  constructor(acts) {
    this.acts = acts;
    this.follows = true; // the end, while it grows
    at("log").onscroll = () => {
      const { scrollHeight, scrollTop, clientHeight } = at("log");
      this.follows = scrollHeight - scrollTop - clientHeight < 48;
      at("down").hidden = this.follows;
    };
    at("down").onclick = () => this.toEnd();
  }

  toEnd() {
    this.follows = true;
    at("log").scrollTop = at("log").scrollHeight;
    at("down").hidden = true;
  }

  show(conversation, { plain, writing }) {
    this.plain = plain;
    const places = shown(conversation);
    const parts = places.map((place) => this.message(conversation, place, writing));
    if (writing) parts.at(-1)?.classList.add("writing");
    at("log").replaceChildren(...parts);
    at("log").classList.toggle("plain", plain);
    at("log").hidden = !places.length;
    at("empty").hidden = places.length > 0;
    if (this.follows) this.toEnd();
  }

  message(conversation, place, writing) {
    const message = conversation.messages[place];
    const own = message.role === "user";
    const text = make("div", { className: "text" });
    this.fill(text, message);
    const head = make("h2", { className: "hidden", textContent: own ? "You" : "Model" });
    const tools = make("div", { className: "tools" });
    tools.append(...this.branches(conversation, place, writing));
    tools.append(copyButton("Copy the message", () => message.content));
    const add = (name, label, act) => {
      const button = iconButton(name, label, act);
      button.disabled = writing;
      tools.append(button);
    };
    if (own) {
      add("edit", "Edit the message", () => this.edit(place));
      if (message.next < 0) add("again", "Answer this message", () => this.acts.answer(place));
    } else {
      add("again", "Answer again", () => this.acts.again(place));
      if (message.next < 0) add("continue", "Continue the answer", () => this.acts.goOn(place));
      if (message.about) tools.append(make("span", { className: "about", textContent: message.about }));
    }
    const article = make("article", { className: message.role }, head, text, tools);
    article.dataset.place = place;
    return article;
  }

  branches(conversation, place, writing) {
    const all = siblings(conversation, place);
    if (all.length < 2) return [];
    const here = all.indexOf(place);
    const step = (name, label, by) => {
      const button = iconButton(name, label, () => {
        this.follows = false;
        this.acts.choose(all[here + by]);
        const article = at("log").querySelector(`[data-place="${all[here + by]}"]`);
        const same = article.querySelector(`[aria-label="${label}"]`);
        (same.disabled ? article.querySelector('[aria-label$="version"]:enabled') : same).focus();
      });
      button.disabled = writing || all[here + by] === undefined;
      return button;
    };
    const count = make("span", { className: "count", textContent: `${here + 1}/${all.length}` });
    count.setAttribute("aria-label", `Version ${here + 1} of ${all.length}`);
    count.setAttribute("role", "img");
    return [step("back", "Previous version", -1), count, step("forth", "Next version", 1)];
  }

  fill(element, message) {
    if (message.role === "user" || this.plain) element.textContent = message.content;
    else element.replaceChildren(render(message.content));
  }

  // Show what has come of the last message; its buttons stay.
  grow(message) {
    const article = at("log").lastElementChild;
    if (!article) return;
    this.fill(article.querySelector(".text"), message);
    if (this.follows) this.toEnd();
  }

  edit(place) {
    const article = at("log").querySelector(`[data-place="${place}"]`);
    if (!article || article.querySelector("textarea")) return;
    const before = [...article.children];
    const area = make("textarea", { value: before[1].textContent, rows: 1 });
    area.setAttribute("aria-label", "Edit the message");
    const close = () => {
      article.replaceChildren(...before);
      article.classList.remove("editing");
      before[2].querySelector('[aria-label="Edit the message"]').focus();
    };
    const cancel = make("button", { type: "button", textContent: "Cancel", onclick: close });
    const send = make("button", { type: "button", className: "main", textContent: "Send" });
    send.onclick = () => {
      if (area.value.trim()) this.acts.edit(place, area.value);
    };
    area.oninput = () => size(area);
    area.onkeydown = (event) => {
      if (sends(event)) {
        event.preventDefault();
        send.click();
      } else if (event.key === "Escape") {
        event.stopPropagation();
        close();
      }
    };
    article.classList.add("editing");
    article.replaceChildren(before[0], area, make("div", { className: "ends" }, cancel, send));
    size(area);
    area.focus();
    area.setSelectionRange(area.value.length, area.value.length);
  }
}
