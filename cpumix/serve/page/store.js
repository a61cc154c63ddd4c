// Where this browser keeps things: conversations in IndexedDB, settings in localStorage, the key
// only until the tab is closed. Where there is no IndexedDB (some private windows), conversations
// last as long as the page.

const channel = new BroadcastChannel("cpumix");
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
  if (database) await promised(table("readwrite").put(conversation));
  channel.postMessage(conversation.id);
}

export async function remove(id) {
  if (database) await promised(table("readwrite").delete(id));
  channel.postMessage(id);
}

// Call `changed` with a conversation that another tab has written (undefined if it is deleted).
export function onChange(changed) {
  channel.onmessage = async ({ data }) => {
    if (database) changed(data, await promised(table("readonly").get(data)));
  };
}

export function setting(name, otherwise) {
  try {
    return JSON.parse(localStorage.getItem(`cpumix.${name}`)) ?? otherwise;
  } catch {
    return otherwise;
  }
}

export function set(name, value) {
  try {
    localStorage.setItem(`cpumix.${name}`, JSON.stringify(value));
  } catch {
    // This browser keeps nothing; the page works without.
  }
}

export const key = {
  get: () => sessionStorage.getItem("cpumix.key") ?? "",
  set: (value) => sessionStorage.setItem("cpumix.key", value),
};
