// The chat page: conversations with the model of this server, kept in this browser.

import * as conversation from "./conversation.js";
import { at, make, say, sends, size } from "./elements.js";
import { Log } from "./log.js";
import * as server from "./server.js";
import * as settings from "./settings.js";
import { Sidebar } from "./sidebar.js";
import * as store from "./store.js";
import { Writer } from "./writer.js";

const IDEAS = [
  "Explain how a mixture of experts works, in simple words.",
  "Write a short poem about a quiet computer.",
  "What should I look at on a first visit to Rome?",
  "Show how to read a file line by line in Python.",
];
const BEGINNINGS = [
  "And they returned to the city",
  "Once upon a time there was a king",
  "A wise man once told his son that",
  "The old house by the sea",
];

class Chat {
  constructor() {
    this.model = null;
    this.conversations = [];
    this.current = conversation.create();
    this.writers = new Map(); // of conversations that are being answered, by id
    this.log = new Log({
      edit: (place, text) => this.edit(place, text),
      answer: (place) => this.answer(place),
      again: (place) => this.answer(this.current.messages[place].parent),
      goOn: (place) => this.write(place),
      choose: (place) => {
        conversation.choose(this.current, place);
        this.keep(this.current);
        this.show();
      },
    });
    this.sidebar = new Sidebar(this);
  }

  isWriting(one) {
    return this.writers.has(one.id);
  }

  get plain() {
    return this.model ? !this.model.chat : false;
  }

  async greet() {
    try {
      this.model = await server.model();
    } catch (error) {
      if (error.status === 401) this.askKey();
      else this.fail(error.message, () => this.greet());
      return;
    }
    this.calm();
    settings.setDefaults(this.model);
    at("model").textContent = this.model.id;
    at("model").title = `Context of ${this.model.max_model_len} tokens`;
    const [question, about, ideas] = this.plain
      ? ["Begin a text, and the model goes on", "It was not trained to answer. ", BEGINNINGS]
      : ["What would you like to know?", "", IDEAS];
    at("greeting").textContent = question;
    at("about").textContent = `${about}${this.model.id} runs on this server alone; nothing you write goes elsewhere.`;
    at("system").parentElement.hidden = this.plain; // there is nobody to tell
    at("box").placeholder = this.plain ? "Begin a text" : "Write a message";
    at("ideas").replaceChildren(
      ...ideas.map((idea) =>
        make("button", { type: "button", textContent: idea, onclick: () => this.begin(idea) }),
      ),
    );
    this.show();
  }

  askKey() {
    const dialog = at("ask-key");
    at("wrong-key").textContent = store.key.get() ? "That key is not one of this server's." : "";
    at("new-key").value = "";
    if (!dialog.open) dialog.showModal();
    at("no-key").onclick = () => dialog.close("cancel"); // not by its type: Enter is to unlock
    dialog.onclose = () => {
      if (dialog.returnValue === "ok" && at("new-key").value) this.useKey(at("new-key").value);
      else this.fail("This server asks for a key.", () => this.askKey(), "Enter the key");
    };
  }

  useKey(key) {
    store.key.set(key);
    at("key").value = key;
    this.greet();
  }

  fail(message, again, label = "Try again") {
    at("error").replaceChildren(make("span", { textContent: message }));
    if (!again) return;
    const act = () => {
      this.calm();
      again();
    };
    at("error").append(make("button", { type: "button", textContent: label, onclick: act }));
  }

  calm() {
    at("error").replaceChildren();
  }

  open(one) {
    this.current = one;
    this.calm();
    this.log.follows = true;
    store.set("current", one.id);
    this.show();
    at("box").focus();
  }

  fresh() {
    this.sidebar.leave();
    this.open(conversation.create());
  }

  remove(one) {
    this.writers.get(one.id)?.stop();
    this.conversations = this.conversations.filter((other) => other !== one);
    if (one === this.current) this.open(conversation.create());
    else this.show();
  }

  // Put a conversation in the place of the one with its id; undefined takes it away.
  replace(id, one) {
    const before = this.conversations.find((other) => other.id === id);
    this.conversations = this.conversations.filter((other) => other !== before);
    if (one) this.conversations.push(one);
    if (before && before === this.current) this.current = one ?? conversation.create();
  }

  keep(one) {
    if (!this.conversations.includes(one)) return; // it was deleted meanwhile
    one.changed = Date.now();
    store.put(one);
  }

  show() {
    const one = this.current;
    const writer = this.writers.get(one.id);
    const title = conversation.titleOf(one);
    at("title").textContent = title;
    document.title = one.messages.length ? `${title} · cpumix` : "cpumix";
    this.log.show(one, { plain: this.plain, writing: Boolean(writer) });
    this.sidebar.show();
    at("log").setAttribute("aria-busy", String(Boolean(writer)));
    at("send").hidden = Boolean(writer);
    at("stop").hidden = !writer;
    at("progress").hidden = true;
    at("status").textContent = writer?.status ?? "";
    this.showContext(one);
  }

  showContext(one) {
    const last = conversation.shown(one).map((place) => one.messages[place]).findLast((m) => m.share);
    at("context").textContent = last ? `Context ${last.share} % full` : "";
  }

  send(text) {
    const said = this.plain ? text : text.trim();
    if (!said.trim() || this.isWriting(this.current) || !this.model) return false;
    const last = conversation.shown(this.current).at(-1) ?? -1;
    if (!this.conversations.includes(this.current)) this.conversations.push(this.current);
    this.log.follows = true;
    this.answer(conversation.add(this.current, last, "user", said));
    store.set("current", this.current.id);
    return true;
  }

  begin(idea) {
    this.send(idea);
    at("box").focus();
  }

  edit(place, text) {
    const { parent } = this.current.messages[place];
    this.answer(conversation.add(this.current, parent, "user", this.plain ? text : text.trim()));
    at("box").focus();
  }

  answer(parent) {
    this.write(conversation.add(this.current, parent, "assistant", ""));
  }

  // Let the model write at the end of a message, empty or not.
  async write(place) {
    const one = this.current;
    if (this.isWriting(one)) return;
    const writer = new Writer(this.model, one, place, {
      changed: (now) => one === this.current && this.progress(writer, now),
      keep: () => this.keep(one),
    });
    this.writers.set(one.id, writer);
    this.calm();
    this.keep(one);
    this.show();
    say("Writing");
    const failure = await writer.run();
    this.writers.delete(one.id);
    const { content, parent } = one.messages[place];
    if (!content) conversation.takeBack(one, place);
    this.keep(one);
    if (one !== this.current) return void this.sidebar.show();
    this.show();
    if (writer.stopped) {
      say("Stopped");
      at("status").textContent = "Stopped";
    } else if (!failure && !content) {
      this.fail("The model ended its answer before the first word.", () => this.answer(parent));
    } else if (!failure) {
      say(`Done. ${at("log").lastElementChild.querySelector(".text").innerText}`);
    } else if (failure.status === 401) {
      this.askKey();
    } else {
      this.fail(failure.message, () => (content ? this.write(place) : this.answer(parent)));
    }
  }

  progress(writer, { read, text }) {
    at("status").textContent = writer.status;
    at("progress").hidden = read === undefined;
    if (read !== undefined) at("progress").value = read;
    if (text) this.log.grow(writer.message);
  }
}

const chat = new Chat();

at("form").onsubmit = (event) => {
  event.preventDefault();
  if (!chat.send(at("box").value)) return;
  at("box").value = "";
  keepDraft();
};
at("stop").onclick = () => {
  chat.writers.get(chat.current.id)?.stop();
  at("box").focus();
};
at("new").onclick = () => chat.fresh();
at("box").oninput = keepDraft;
at("box").onkeydown = (event) => {
  if (sends(event)) {
    event.preventDefault();
    at("form").requestSubmit();
  } else if (event.key === "ArrowUp" && !at("box").value && !chat.isWriting(chat.current)) {
    event.preventDefault();
    const own = (place) => chat.current.messages[place].role === "user";
    const last = conversation.shown(chat.current).findLast(own);
    if (last !== undefined) chat.log.edit(last);
  }
};
document.onkeydown = (event) => {
  const key = event.key.toLowerCase();
  const control = event.ctrlKey || event.metaKey;
  let act = null;
  if (document.querySelector("dialog[open]")) return; // a dialog has keys of its own
  if (key === "escape") act = () => chat.writers.get(chat.current.id)?.stop();
  else if (control && event.shiftKey && key === "o") act = () => chat.fresh();
  else if (control && !event.shiftKey && key === "k") act = () => chat.sidebar.find();
  else if (control && !event.shiftKey && key === "b") act = () => chat.sidebar.toggle();
  else if (key === "f6") act = () => at(document.activeElement === at("box") ? "log" : "box").focus();
  if (!act) return;
  if (key !== "escape") event.preventDefault();
  act();
};

function keepDraft() {
  store.ofTab.set("draft", at("box").value);
  size(at("box"));
}

settings.build((key) => chat.useKey(key));
settings.closeOutside(at("ask-key"));
const kept = await store.open();
if (!kept) chat.sidebar.tell("This browser keeps no conversations for this page: they end with it.");
chat.conversations = kept ?? [];
const last = store.setting("current", "");
chat.current = chat.conversations.find(({ id }) => id === last) ?? chat.current;
store.onChange((id, one) => {
  if (chat.writers.has(id)) return;
  chat.replace(id, one);
  if (!document.querySelector(".editing")) chat.show();
});
at("box").value = store.ofTab.get("draft") ?? "";
size(at("box"));
chat.show();
await chat.greet();
if (!document.querySelector("dialog[open]")) at("box").focus();
