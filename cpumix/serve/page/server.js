// Asks the server that this page came from, and no other.

import { key } from "./store.js";

export class Refusal extends Error {
  constructor(status, error, after) {
    super(error?.message ?? `The server answered with status ${status}.`);
    this.status = status;
    this.after = after; // seconds until it is worth asking again
  }
}

const GONE = "The server does not answer. Is it running?";

async function ask(path, options = {}) {
  const headers = { "content-type": "application/json" };
  if (key.get()) headers.authorization = `Bearer ${key.get()}`;
  let response;
  try {
    response = await fetch(path, { ...options, headers });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Error(GONE);
  }
  if (response.ok) return response;
  const body = await response.json().catch(() => null);
  throw new Refusal(response.status, body?.error, Number(response.headers.get("retry-after")));
}

// The model: id, max_model_len, chat (whether it has a template), sampling (its defaults).
export async function model() {
  const response = await ask("v1/models");
  return (await response.json()).data[0];
}

// Yield {done, all} while the prompt is read, {text} as it comes, and {usage, timings, finish}.
export async function* write(model, body, signal) {
  const path = model.chat ? "v1/chat/completions" : "v1/completions";
  const asked = { ...body, stream: true, stream_options: { include_usage: true } };
  const response = await ask(path, { method: "POST", body: JSON.stringify(asked), signal });
  let finish = null;
  for await (const line of lines(response.body)) {
    const progress = /^: prompt (\d+)\/(\d+)/.exec(line);
    if (progress) yield { done: Number(progress[1]), all: Number(progress[2]) };
    if (!line.startsWith("data: ")) continue;
    if (line === "data: [DONE]") return;
    const chunk = JSON.parse(line.slice(6));
    if (chunk.error) throw new Refusal(500, chunk.error);
    const choice = chunk.choices[0];
    finish = choice?.finish_reason ?? finish;
    const text = choice?.delta?.content ?? choice?.text;
    if (text) yield { text };
    if (chunk.timings) yield { usage: chunk.usage, timings: chunk.timings, finish };
  }
  throw new Error("The server went away in the middle of the answer. What it wrote is kept.");
}

async function* lines(stream) {
  const reader = stream.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    let part;
    try {
      part = await reader.read();
    } catch (error) {
      if (error.name === "AbortError") throw error;
      return; // the connection broke
    }
    if (part.done) return;
    const parts = (rest + part.value).split("\n");
    rest = parts.pop();
    yield* parts;
  }
}
