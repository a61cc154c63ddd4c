// Lets the model write at the end of one message.

import { upTo } from "./conversation.js";
import * as server from "./server.js";
import * as settings from "./settings.js";

const KEEP_EVERY = 1000; // milliseconds between two savings of an answer that grows

export class Writer {
  // `changed` is called with {read} or {text} when there is something to show, `keep` to save.
  constructor(model, conversation, place, { changed, keep }) {
    this.model = model;
    this.message = conversation.messages[place];
    this.body = bodyOf(model, conversation, place);
    this.changed = changed;
    this.keep = keep;
    this.status = "Waiting for the first word";
    this.stopped = false;
    this.tokens = 0;
    this.abort = new AbortController();
  }

  stop() {
    this.stopped = true;
    this.abort.abort();
    this.wake?.();
  }

  // Write until the end; return what went wrong, or null.
  async run() {
    delete this.message.about;
    try {
      return await this.tryUntilDone();
    } finally {
      cancelAnimationFrame(this.frame);
    }
  }

  async tryUntilDone() {
    while (!this.stopped) {
      try {
        for await (const event of server.write(this.model, this.body, this.abort.signal)) this.take(event);
        return null;
      } catch (error) {
        if (this.stopped) break;
        if (error.status !== 429 || !error.after) return error;
        await this.wait(error.after);
      }
    }
    if (this.tokens) this.message.about = `${count(this.tokens)}, stopped`;
    return null;
  }

  take({ done, all, text, usage, timings, finish }) {
    if (all) {
      this.status = `Reading the prompt: ${done} of ${count(all)}`;
      this.changed({ read: done / all });
    } else if (text) {
      this.message.content += text;
      this.count();
    } else if (usage) {
      const { model, message } = this;
      const speed = timings.predicted_per_second.toFixed(1);
      message.share = Math.round((100 * usage.total_tokens) / model.max_model_len);
      const cut = finish === "length" ? " · cut at the limit" : "";
      message.about = `${count(usage.completion_tokens)} · ${speed} tokens/s${cut}`;
    }
  }

  count() {
    const now = performance.now();
    this.tokens += 1;
    if (this.tokens === 1) this.began = this.kept = now;
    const speed = (1000 * (this.tokens - 1)) / (now - this.began);
    const told = this.tokens > 3 && speed > 0 ? ` · ${speed.toFixed(1)} tokens/s` : "";
    this.status = `Writing: ${count(this.tokens)}${told}`;
    if (now - this.kept > KEEP_EVERY) {
      this.kept = now;
      this.keep();
    }
    // A frame may bring several tokens: they are shown together.
    this.frame ??= requestAnimationFrame(() => {
      this.frame = undefined;
      this.changed({ text: true });
    });
  }

  async wait(seconds) {
    for (; seconds > 0 && !this.stopped; seconds -= 1) {
      this.status = `The server is busy. Asking again in ${seconds} s`;
      this.changed({});
      await new Promise((resolve) => {
        this.wake = resolve;
        setTimeout(resolve, 1000);
      });
    }
    this.status = "Waiting for the first word";
  }
}

function count(tokens) {
  return `${tokens} token${tokens === 1 ? "" : "s"}`;
}

function bodyOf(model, conversation, place) {
  const history = upTo(conversation, place).map((at) => conversation.messages[at]);
  const { system } = settings;
  const fields = settings.fields();
  if (!model.chat) return { ...fields, prompt: history.map(({ content }) => content).join("") };
  const messages = history.map(({ role, content }) => ({ role, content }));
  if (system()) messages.unshift({ role: "system", content: system() });
  if (messages.at(-1).content) return { ...fields, messages, continue_final_message: true };
  return { ...fields, messages: messages.slice(0, -1) };
}
