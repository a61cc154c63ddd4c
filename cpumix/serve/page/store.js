// Where this browser keeps things: conversations in IndexedDB, settings in localStorage, the key and
// what is being typed only until the tab is closed. What a browser keeps nowhere (some private
// windows, or storage is blocked) lasts as long as the page.

let channel = null; // to the other tabs
let database = null;

function promised(request) {
  return new Promise((resolve, reject) => {
    request.onsuccess = () => resolve(request.result);
    request.onerror = () => reject(request.error);
  });
}

// Open the store; return all conversations, or null if none can be kept.
export async function open() {
  try {
    const request = indexedDB.open("cpumix", 1);
    request.onupgradeneeded = () => {
      request.result.createObjectStore("conversations", { keyPath: "id" });
    };
    channel = new BroadcastChannel("cpumix"); // where storage is blocked, so is this
    database = await promised(request);
    navigator.storage?.persist?.();
    return await promised(table("readonly").getAll());
  } catch {
    return null;
  }
}

function table(mode) {
  return database.transaction("conversations", mode).objectStore("conversations");
}

export async function put(conversation) {
  if (!database) return;
  await promised(table("readwrite").put(conversation));
  channel.postMessage(conversation.id);
}

export async function remove(id) {
  if (!database) return;
  await promised(table("readwrite").delete(id));
  channel.postMessage(id);
}

// Call `changed` with a conversation that another tab has written (undefined if it is deleted).
export function onChange(changed) {
  if (!database) return;
  channel.onmessage = async ({ data }) => {
    changed(data, await promised(table("readonly").get(data)));
  };
}

// Texts by name in a storage of the browser. Where it refuses (blocked for this page, or full), they
// last as long as the page, which works without.
class Texts {
  constructor(storage) {
    this.storage = storage;
    this.refused = new Map();
  }

  get(name) {
    if (this.refused.has(name)) return this.refused.get(name);
    try {
      return window[this.storage].getItem(`cpumix.${name}`);
    } catch {
      return null;
    }
  }

  set(name, text) {
    this.refused.delete(name);
    try {
      window[this.storage].setItem(`cpumix.${name}`, text);
    } catch {
      this.refused.set(name, text);
    }
  }
}

export const lasting = new Texts("localStorage");
export const ofTab = new Texts("sessionStorage");

export function setting(name, otherwise) {
  try {
    return JSON.parse(lasting.get(name)) ?? otherwise;
  } catch {
    return otherwise; // it is no JSON
  }
}

export function set(name, value) {
  lasting.set(name, JSON.stringify(value));
}

export const key = {
  get: () => ofTab.get("key") ?? "",
  set: (value) => ofTab.set("key", value),
};
