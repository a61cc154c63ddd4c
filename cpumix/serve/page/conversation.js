// A conversation is a tree: an edited message and an answer that is written anew stand beside the
// old ones, so nothing is lost. A message knows its `parent` and the child that is shown, `next`;
// both are places in `messages`, and -1 is none. `first` is the first message that is shown.

export function create() {
  const now = Date.now();
  return { id: randomId(), title: "", created: now, changed: now, first: -1, messages: [] };
}

function randomId() {
  // crypto.randomUUID is only there on https and localhost, and phones ask by http.
  return [...crypto.getRandomValues(new Uint8Array(16))]
    .map((byte) => byte.toString(16).padStart(2, "0"))
    .join("");
}

// The places of the messages that are shown.
export function shown(conversation) {
  const found = [];
  for (let at = conversation.first; at >= 0; at = conversation.messages[at].next) found.push(at);
  return found;
}

// The places of the messages before `at`, and of `at`.
export function upTo(conversation, at) {
  const found = [];
  for (; at >= 0; at = conversation.messages[at].parent) found.unshift(at);
  return found;
}

export function add(conversation, parent, role, content) {
  const at = conversation.messages.push({ parent, next: -1, role, content }) - 1;
  choose(conversation, at);
  return at;
}

// Take the newest message away, and show the one that stood beside it, if there is one.
export function takeBack(conversation, at) {
  const { parent } = conversation.messages[at];
  const other = siblings(conversation, at).findLast((sibling) => sibling !== at) ?? -1;
  if (parent < 0) conversation.first = other;
  else conversation.messages[parent].next = other;
  conversation.messages.pop();
}

// Show a message in place of its siblings.
export function choose(conversation, at) {
  const { parent } = conversation.messages[at];
  if (parent < 0) conversation.first = at;
  else conversation.messages[parent].next = at;
}

// The places of a message and of those that stand beside it.
export function siblings(conversation, at) {
  const { parent } = conversation.messages[at];
  return [...conversation.messages.keys()].filter(
    (other) => conversation.messages[other].parent === parent,
  );
}

export function titleOf(conversation) {
  if (conversation.title) return conversation.title;
  const begin = conversation.messages[0]?.content.trim().replace(/\s+/g, " ") ?? "";
  const letters = [...begin];
  return letters.length > 80 ? `${letters.slice(0, 79).join("")}…` : begin || "New chat";
}

export function holds(conversation, words) {
  const texts = [titleOf(conversation), ...conversation.messages.map((message) => message.content)];
  const all = texts.join("\n").toLowerCase();
  return words.toLowerCase().split(/\s+/).every((word) => all.includes(word));
}

// What a file of conversations has to be; what it holds beside is left behind.
const FORMAT = "cpumix-conversations";

export function write(conversations) {
  return JSON.stringify({ format: FORMAT, version: 1, conversations }, null, 1);
}

export function read(text) {
  let value;
  try {
    value = JSON.parse(text);
  } catch {
    throw new Error("This file is no JSON. Choose one that “Export all” wrote.");
  }
  if (Array.isArray(value)) return [fromMessages(value)]; // what `cpumix chat` saves
  if (value?.format !== FORMAT || !Array.isArray(value.conversations)) {
    throw new Error("This file holds no conversations. Choose one that “Export all” wrote.");
  }
  return value.conversations.map(checked);
}

function checked(given) {
  const whole = (number, low, high) => Number.isInteger(number) && number >= low && number < high;
  const times = [given?.created, given?.changed];
  const fine =
    typeof given?.id === "string" &&
    typeof given.title === "string" &&
    times.every((time) => whole(time, 0, 8.64e15)) && // the last date that there is
    Array.isArray(given.messages) &&
    whole(given.first, -1, given.messages.length) &&
    (given.first < 0 || given.messages[given.first].parent === -1) &&
    given.messages.every(
      (message, at) =>
        ["user", "assistant"].includes(message?.role) &&
        typeof message.content === "string" &&
        whole(message.parent, -1, at) && // a parent comes first, so there are no circles
        whole(message.next, -1, given.messages.length) &&
        (message.next < 0 || given.messages[message.next].parent === at),
    );
  if (!fine) throw new Error("A conversation in this file is damaged. Nothing was imported.");
  const { id, title, created, changed, first } = given;
  const messages = given.messages.map(({ parent, next, role, content, about, share }) => ({
    parent, next, role, content,
    ...(typeof about === "string" && { about }),
    ...(typeof share === "number" && { share }),
  }));
  return { id, title, created, changed, first, messages };
}

function fromMessages(list) {
  const conversation = create();
  for (const message of list) {
    if (message?.role === "system") continue;
    add(conversation, conversation.messages.length - 1, message?.role, message?.content);
  }
  return checked(conversation);
}
