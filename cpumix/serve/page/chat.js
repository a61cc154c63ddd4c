// The chat page: one conversation, kept in this browser. Model output becomes HTML only through
// markdown-it (which passes no HTML on) and DOMPurify.

const at = (id) => document.getElementById(id);
const store = window.localStorage;
const SETTINGS = ["system", "temperature", "tokens", "top_p", "penalty"];
const markdown = () => window.markdownit({ html: false, linkify: false, breaks: true });
let messages = read("messages", []);
let model = { chat: true };
let running = null; // the AbortController of the answer that is being written

function read(name, otherwise) {
  try {
    return JSON.parse(store.getItem(`cpumix.${name}`)) ?? otherwise;
  } catch {
    return otherwise;
  }
}

function keep(name, value) {
  store.setItem(`cpumix.${name}`, JSON.stringify(value));
}

function headers() {
  const key = at("key").value;
  return { "content-type": "application/json", ...(key && { authorization: `Bearer ${key}` }) };
}

function show() {
  at("log").replaceChildren(...messages.map(articleOf));
  at("log").scrollTop = at("log").scrollHeight;
}

function articleOf(message, index) {
  const article = document.createElement("article");
  article.className = message.role + (model.chat ? "" : " plain");
  const name = document.createElement("h2");
  name.textContent = message.role === "user" ? "You" : "Model";
  const text = document.createElement("div");
  text.className = "text";
  fill(text, message);
  const tools = document.createElement("div");
  tools.className = "tools";
  const add = (label, act) => {
    const button = document.createElement("button");
    button.type = "button";
    button.textContent = label;
    button.onclick = act;
    tools.append(button);
  };
  add("Copy", () => navigator.clipboard.writeText(message.content));
  if (message.role === "user") add("Edit", () => edit(index));
  else add("Again", () => answer(index));
  article.append(name, text, tools);
  return article;
}

function fill(element, message) {
  if (message.role === "user" || !model.chat) element.textContent = message.content;
  else element.innerHTML = window.DOMPurify.sanitize(markdown().render(message.content));
}

function edit(index) {
  if (running || index < 0) return;
  at("box").value = messages[index].content;
  messages = messages.slice(0, index);
  keep("messages", messages);
  show();
  at("box").focus();
}

function body(history) {
  const system = at("system").value.trim();
  const options = {
    temperature: Number(at("temperature").value),
    max_tokens: Number(at("tokens").value),
    top_p: Number(at("top_p").value),
    repetition_penalty: Number(at("penalty").value),
    stream: true,
    stream_options: { include_usage: true },
  };
  if (!model.chat) return { ...options, prompt: history.map((m) => m.content).join("") };
  const before = system ? [{ role: "system", content: system }] : [];
  return { ...options, messages: [...before, ...history] };
}

async function answer(index) {
  if (running) return;
  messages = messages.slice(0, index);
  const said = { role: "assistant", content: "" };
  const history = [...messages];
  messages.push(said);
  show();
  const text = at("log").lastElementChild.querySelector(".text");
  begin();
  let numbers = "";
  try {
    const path = model.chat ? "v1/chat/completions" : "v1/completions";
    const response = await fetch(path, {
      method: "POST", headers: headers(), body: JSON.stringify(body(history)), signal: running.signal,
    });
    if (!response.ok) throw new Error((await response.json()).error.message);
    for await (const line of lines(response.body)) {
      if (line.startsWith(": prompt ")) at("status").textContent = `Reading ${line.slice(2)}`;
      if (!line.startsWith("data: ") || line === "data: [DONE]") continue;
      const chunk = JSON.parse(line.slice(6));
      if (chunk.error) throw new Error(chunk.error.message);
      if (chunk.timings) numbers = told(chunk);
      const choice = chunk.choices[0];
      said.content += choice?.delta?.content ?? choice?.text ?? "";
      const low = at("log").scrollHeight - at("log").scrollTop - at("log").clientHeight < 60;
      fill(text, said);
      if (low) at("log").scrollTop = at("log").scrollHeight;
    }
    end(`Done. ${numbers}`);
  } catch (error) {
    const stopped = error.name === "AbortError";
    if (!said.content) messages.pop();
    if (!stopped) at("error").textContent = error.message || "The server does not answer.";
    end(stopped ? "Stopped." : "");
  }
  keep("messages", messages);
  show();
}

function told(chunk) {
  const speed = chunk.timings.predicted_per_second.toFixed(1);
  const used = Math.round((100 * chunk.usage.total_tokens) / model.max_model_len);
  return `${chunk.usage.completion_tokens} tokens, ${speed} tokens/s, ${used} % of the context.`;
}

async function* lines(stream) {
  const reader = stream.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    const parts = (rest + value).split("\n");
    rest = parts.pop();
    yield* parts;
  }
}

function begin() {
  running = new AbortController();
  at("error").textContent = "";
  at("status").textContent = "Writing";
  at("log").setAttribute("aria-busy", "true");
  at("send").hidden = true;
  at("stop").hidden = false;
}

function end(status) {
  running = null;
  at("status").textContent = status;
  at("log").removeAttribute("aria-busy");
  at("send").hidden = false;
  at("stop").hidden = true;
}

function send() {
  const content = model.chat ? at("box").value.trim() : at("box").value;
  if (!content.trim() || running) return;
  at("box").value = "";
  messages.push({ role: "user", content });
  answer(messages.length);
}

at("form").onsubmit = (event) => {
  event.preventDefault();
  send();
};
at("box").onkeydown = (event) => {
  const touch = window.matchMedia("(pointer: coarse)").matches;
  if (event.key === "Enter" && !event.shiftKey && !event.isComposing && !touch) {
    event.preventDefault();
    send();
  } else if (event.key === "ArrowUp" && !at("box").value) {
    event.preventDefault();
    edit(messages.findLastIndex((message) => message.role === "user"));
  }
};
document.onkeydown = (event) => {
  if (event.key === "Escape") running?.abort();
};
at("stop").onclick = () => running?.abort();
at("new").onclick = () => {
  if (running) return;
  messages = [];
  keep("messages", messages);
  show();
  at("box").focus();
};
at("export").onclick = () => {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([JSON.stringify(messages, null, 2)]));
  link.download = "conversation.json";
  link.click();
};
at("reset").onclick = () => {
  for (const name of SETTINGS) at(name).value = at(name).defaultValue;
  settings();
};

function settings() {
  keep("settings", Object.fromEntries(SETTINGS.map((name) => [name, at(name).value])));
  for (const output of document.querySelectorAll("output")) {
    output.textContent = at(output.htmlFor.value).value;
  }
}

async function greet() {
  try {
    const response = await fetch("v1/models", { headers: headers() });
    const found = await response.json();
    if (!response.ok) throw new Error(found.error.message);
    model = found.data[0];
    at("model").textContent = model.chat ? model.id : `${model.id} (goes on with texts)`;
    at("error").textContent = "";
  } catch (error) {
    at("error").textContent = error.message;
  }
  show();
}

const kept = read("settings", {});
for (const name of SETTINGS) {
  if (kept[name] !== undefined) at(name).value = kept[name];
}
at("settings").oninput = settings;
at("key").onchange = greet;
settings();
await greet();
at("box").focus();
