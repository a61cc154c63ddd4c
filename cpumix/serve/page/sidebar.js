// The list of conversations: open, search, rename, delete (and take that back), export, import.

import { read, write, holds, titleOf } from "./conversation.js";
import { at, iconButton, make, say } from "./elements.js";
import * as store from "./store.js";

const DAY = 24 * 3600 * 1000;
const narrow = window.matchMedia("(max-width: 50rem)");

export class Sidebar {
  // `chat`: what the list is of (conversations, current, isWriting, open, remove, replace, show, fail).
  constructor(chat) {
    this.chat = chat;
    this.renaming = null;
    at("search").oninput = () => this.show();
    at("search").onkeydown = (event) => {
      if (event.key === "Enter") at("list").querySelector("button.open")?.click();
      if (event.key === "Escape" && at("search").value) {
        event.stopPropagation();
        at("search").value = "";
        this.show();
      }
    };
    at("toggle").onclick = () => this.toggle();
    at("close-sidebar").onclick = () => this.toggle(false);
    at("veil").onclick = () => this.toggle(false);
    at("export").onclick = () => this.save();
    at("import").onclick = () => at("file").click();
    at("file").onchange = () => this.load();
    this.place(!narrow.matches && store.setting("sidebar", true));
    narrow.onchange = () => this.place(!narrow.matches && store.setting("sidebar", true));
  }

  toggle(opens = !this.isOpen) {
    this.place(opens);
    if (!narrow.matches) store.set("sidebar", opens);
    if (opens) (narrow.matches ? at("close-sidebar") : at("new")).focus();
    else at("toggle").focus();
  }

  place(opens) {
    this.isOpen = opens;
    document.body.classList.toggle("with-sidebar", opens);
    at("sidebar").inert = !opens;
    at("page").inert = opens && narrow.matches;
    at("toggle").setAttribute("aria-expanded", String(opens));
  }

  // On a small screen the list covers the conversation, so it goes once something is chosen.
  leave() {
    if (narrow.matches) this.place(false);
  }

  find() {
    this.place(true);
    at("search").focus();
    at("search").select();
  }

  show() {
    const words = at("search").value.trim();
    const found = this.chat.conversations.filter((one) => !words || holds(one, words));
    found.sort((a, b) => b.changed - a.changed);
    const today = new Date().setHours(0, 0, 0, 0);
    const groups = new Map();
    for (const one of found) {
      const days = (today - one.changed) / DAY;
      const name = days <= 0 ? "Today" : days <= 1 ? "Yesterday" : days <= 7 ? "This week" : "Earlier";
      groups.set(name, [...(groups.get(name) ?? []), one]);
    }
    const parts = [...groups].flatMap(([name, ones]) => [
      make("h2", { textContent: name }),
      make("ul", {}, ...ones.map((one) => this.entry(one))),
    ]);
    const none = words ? "Nothing found" : "Your conversations will be here. They stay in this browser.";
    at("list").replaceChildren(...(parts.length ? parts : [make("p", { textContent: none })]));
    at("export").disabled = !this.chat.conversations.length;
  }

  entry(one) {
    const item = make("li");
    if (this.renaming === one.id) {
      item.append(this.field(one));
      return item;
    }
    const open = make("button", { type: "button", className: "open" });
    open.append(make("span", { textContent: titleOf(one) }));
    if (this.chat.isWriting(one)) {
      open.append(make("i", { className: "pulse" }), make("span", { className: "hidden", textContent: ", is being answered" }));
    }
    if (one === this.chat.current) {
      item.className = "current";
      open.setAttribute("aria-current", "true");
    }
    open.onclick = () => {
      this.chat.open(one);
      this.leave();
    };
    const title = titleOf(one);
    item.append(
      open,
      iconButton("edit", `Rename “${title}”`, () => this.rename(one)),
      iconButton("delete", `Delete “${title}”`, () => this.remove(one)),
    );
    return item;
  }

  rename(one) {
    this.renaming = one.id;
    this.show();
    at("list").querySelector("input").select();
  }

  field(one) {
    const input = make("input", { value: titleOf(one), maxLength: 200 });
    input.setAttribute("aria-label", "New name");
    const end = (keeps) => {
      if (this.renaming !== one.id) return;
      this.renaming = null;
      if (keeps && input.value.trim()) {
        one.title = input.value.trim();
        store.put(one);
      }
      this.chat.show();
    };
    input.onkeydown = (event) => {
      if (event.key === "Escape") event.stopPropagation();
      if (event.key === "Enter" || event.key === "Escape") {
        end(event.key === "Enter");
        at("list").querySelector("[aria-current]")?.focus();
      }
    };
    input.onblur = () => end(true);
    return input;
  }

  remove(one) {
    this.chat.remove(one);
    store.remove(one.id);
    const undo = make("button", { type: "button", textContent: "Undo" });
    undo.onclick = () => {
      at("notice").replaceChildren();
      this.chat.conversations.push(one);
      store.put(one);
      this.chat.open(one);
    };
    this.tell(`Deleted “${titleOf(one)}”.`, undo);
  }

  tell(text, ...buttons) {
    const close = iconButton("close", "Dismiss", () => at("notice").replaceChildren());
    at("notice").replaceChildren(make("span", { textContent: text }), ...buttons, close);
    clearTimeout(this.timer);
    this.timer = setTimeout(() => at("notice").replaceChildren(), 12_000);
  }

  save() {
    const blob = new Blob([write(this.chat.conversations)], { type: "application/json" });
    const day = new Date().toISOString().slice(0, 10);
    const link = make("a", { href: URL.createObjectURL(blob), download: `cpumix-${day}.json` });
    link.click();
    URL.revokeObjectURL(link.href);
    say("Exported");
  }

  async load() {
    const [file] = at("file").files;
    at("file").value = "";
    try {
      const found = read(await file.text());
      const known = new Map(this.chat.conversations.map((one) => [one.id, one]));
      const fresh = found.filter((one) => !known.has(one.id) || known.get(one.id).changed < one.changed);
      for (const one of fresh) {
        this.chat.replace(one.id, one);
        await store.put(one);
      }
      this.leave();
      const here = found.length - fresh.length;
      this.tell(`Imported ${fresh.length}${here ? `; ${here} were here already` : ""}.`);
    } catch (error) {
      this.leave();
      this.chat.fail(error.message);
    }
    this.chat.show();
  }
}
