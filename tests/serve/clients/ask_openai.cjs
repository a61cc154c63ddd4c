// What the npm package openai does with a server, as JSON. An answer is aborted in its middle, and
// one before it begins.

const OpenAI = require("openai").default;
const client = new OpenAI({ baseURL: `${process.argv[2]}/v1`, apiKey: "none", maxRetries: 0 });
const asked = {
  model: "demo",
  messages: [{ role: "user", content: "Who returned to the city?" }],
  temperature: 0,
  seed: 1,
  max_completion_tokens: 12,
};
const long = { ...asked, max_completion_tokens: 400, ignore_eos: true };

async function aborted(stream) {
  const controller = new AbortController();
  try {
    if (!stream) setTimeout(() => controller.abort(), 50);
    const answer = await client.chat.completions.create(
      { ...long, stream },
      { signal: controller.signal },
    );
    if (!stream) return "answered";
    let pieces = 0;
    for await (const _ of answer) {
      pieces += 1;
      if (pieces === 3) controller.abort();
    }
    return pieces < 100 ? "ended" : "answered";
  } catch (error) {
    return error.constructor.name;
  }
}

(async () => {
  const models = await client.models.list();
  const whole = await client.chat.completions.create(asked);
  const stream = await client.chat.completions.create({
    ...asked, stream: true, stream_options: { include_usage: true },
  });
  let streamed = "";
  let tokens = 0;
  for await (const chunk of stream) {
    streamed += chunk.choices[0]?.delta.content ?? "";
    tokens = chunk.usage?.completion_tokens ?? tokens;
  }
  const ends = [await aborted(true), await aborted(false)];
  const refused = await client.chat.completions
    .create({ ...asked, max_completion_tokens: 0 })
    .catch((error) => error.constructor.name);
  const names = models.data.map((model) => model.id);
  const text = whole.choices[0].message.content;
  console.log(JSON.stringify({ models: names, whole: text, streamed, tokens, ends, refused }));
})();
