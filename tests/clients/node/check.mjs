// Ask a server for embeddings through OpenAI's SDK for Node, and print what each check found, as JSON.
//
//     node check.mjs MODULES '{"url": "http://127.0.0.1:8080/v1", "model": "...", "key": "", "tokens": [[...], [...]]}'
//
// MODULES is the folder in which the SDK is installed; `tokens` are those of TEXTS in cl100k, which Node cannot tell.
import assert from "node:assert/strict";
import { createRequire } from "node:module";
import path from "node:path";
import process from "node:process";

const [modules, said] = process.argv.slice(2);
const { url, model, key, tokens } = JSON.parse(said);
const { OpenAI } = createRequire(path.join(path.resolve(modules), "/"))("openai");

const TEXTS = ["The keys are rotated each month.", "Grüße aus Köln", "すべての書類は金庫にあります。"];
const [ONE, , THREE] = TEXTS;
const SAME = 0.9999; // cosine of two vectors of one text
const client = new OpenAI({ baseURL: url, apiKey: key || "none", maxRetries: 0 });

// Answers of the SDK are checked for what is true of each: numbers in order, unit vectors, usage.
async function embed(input, more = {}) {
  const answer = await client.embeddings.create({ model, input, ...more });
  assert.equal(answer.object, "list");
  assert.deepEqual(answer.data.map((row) => row.index), answer.data.map((_, place) => place));
  assert.ok(answer.usage.prompt_tokens > 0);
  assert.equal(answer.usage.prompt_tokens, answer.usage.total_tokens);
  return answer;
}

const vectors = (answer) => answer.data.map((row) => numbers(row.embedding));

function numbers(embedding) {
  if (typeof embedding !== "string") return Array.from(embedding);
  const bytes = Buffer.from(embedding, "base64");
  assert.equal(bytes.length % 4, 0);
  return Array.from({ length: bytes.length / 4 }, (_, place) => bytes.readFloatLE(4 * place));
}

function cosine(left, right) {
  assert.equal(left.length, right.length);
  const dot = (one, other) => one.reduce((sum, number, place) => sum + number * other[place], 0);
  return dot(left, right) / Math.sqrt(dot(left, left) * dot(right, right));
}

function assertSame(left, right) {
  assert.equal(left.length, right.length);
  left.forEach((vector, place) => {
    const found = cosine(vector, right[place]);
    assert.ok(found >= SAME, `the vectors at place ${place} have a cosine of ${found}`);
  });
}

async function alone(texts) {
  const found = [];
  for (const text of texts) found.push(vectors(await embed(text))[0]);
  for (let place = 1; place < found.length; place += 1) assert.ok(cosine(found[place - 1], found[place]) < 0.99);
  return found;
}

async function refused(kind, status, asked) {
  let error;
  try {
    await client.embeddings.create({ model, input: "text", ...asked });
  } catch (caught) {
    error = caught;
  }
  assert.ok(error instanceof kind, `wanted ${kind.name}, and it was ${error ?? "answered"}`);
  assert.equal(error.status, status);
  assert.deepEqual(Object.keys(error.error).sort(), ["code", "message", "param", "type"]);
  assert.ok(error.requestID);
  return error;
}

const checks = {
  "a string has one vector": async () => assert.equal((await embed(ONE)).data.length, 1),
  "a list has a vector for each of its strings, in order": async () =>
    assertSame(vectors(await embed(TEXTS)), await alone(TEXTS)),
  "a text that comes twice has its vector at both places": async () => {
    const [one, three] = await alone([ONE, THREE]);
    assertSame(vectors(await embed([ONE, THREE, ONE])), [one, three, one]);
  },
  "an array of tokens has the vector of its text": async () =>
    assertSame(vectors(await embed(tokens[0])), await alone([ONE])),
  "a list of token arrays has a vector for each, in order": async () =>
    assertSame(vectors(await embed(tokens)), await alone(TEXTS)),
  "by default the SDK asks for base64, gets it, and hands over numbers": async () => {
    let body, raw;
    const watching = new OpenAI({
      baseURL: url,
      apiKey: key || "none",
      maxRetries: 0,
      fetch: async (address, options) => {
        body = JSON.parse(options.body);
        const answer = await fetch(address, options);
        raw = await answer.clone().json();
        return answer;
      },
    });
    const answer = await watching.embeddings.create({ model, input: TEXTS });
    assert.equal(body.encoding_format, "base64");
    for (const row of raw.data) assert.equal(typeof row.embedding, "string");
    for (const row of answer.data) assert.equal(typeof Array.from(row.embedding)[0], "number");
    assertSame(vectors(answer), vectors({ data: raw.data }));
  },
  "floats are numbers": async () => {
    const answer = await embed(TEXTS, { encoding_format: "float" });
    for (const row of answer.data) assert.ok(Array.isArray(row.embedding));
    assertSame(vectors(answer), await alone(TEXTS));
  },
  "base64 is handed over where it is asked for": async () => {
    const answer = await embed(TEXTS, { encoding_format: "base64" });
    for (const row of answer.data) assert.equal(typeof row.embedding, "string");
    assertSame(vectors(answer), await alone(TEXTS));
  },
  "vectors are of length 1": async () => {
    for (const vector of vectors(await embed(TEXTS)))
      assert.ok(Math.abs(Math.hypot(...vector) - 1) < 1e-3, `length ${Math.hypot(...vector)}`);
  },
  "the model's own dimensions may be named": async () => {
    const [vector] = await alone([ONE]);
    assertSame(vectors(await embed(ONE, { dimensions: vector.length })), [vector]);
  },
  "a user and nulls are taken": async () => {
    const nothing = { dimensions: null, encoding_format: null };
    assertSame(vectors(await embed(ONE, { user: "somebody", ...nothing })), await alone([ONE]));
  },
  "2,048 items are answered in order": async () => {
    const texts = Array.from({ length: 2048 }, (_, place) => `${TEXTS[place % 3]} ${place % 3}`);
    const found = vectors(await embed(texts));
    assert.equal(found.length, 2048);
    const few = await alone(texts.slice(0, 3));
    assertSame(found, texts.map((_, place) => few[place % 3]));
  },
  "2,049 items are refused": async () =>
    refused(OpenAI.BadRequestError, 400, { input: Array(2049).fill("text") }),
  "8,193 tokens are refused in OpenAI's words": async () => {
    const error = await refused(OpenAI.BadRequestError, 400, { input: Array(8193).fill(tokens[0][0]) });
    assert.match(error.message, /maximum context length is 8192 tokens/);
  },
  "more than 300,000 tokens are refused": async () => {
    const input = Array(40).fill(Array(8000).fill(tokens[0][0]));
    assert.equal((await refused(OpenAI.BadRequestError, 400, { input })).code, "max_tokens_per_request");
  },
  "empty inputs are refused": async () => {
    for (const input of ["", [], ["text", ""], [[]]]) await refused(OpenAI.BadRequestError, 400, { input });
  },
  "impossible dimensions are refused": async () => {
    for (const dimensions of [0, -1, 1_000_000]) await refused(OpenAI.BadRequestError, 400, { dimensions });
  },
  "an unknown model is not found": async () => {
    const error = await refused(OpenAI.NotFoundError, 404, { model: "a-model-that-there-is-not" });
    assert.equal(error.code, "model_not_found");
  },
  "a wrong key is refused": async () => {
    if (!key) return "the server asks for no key";
    const stranger = new OpenAI({ baseURL: url, apiKey: "sk-a-key-that-there-is-not", maxRetries: 0 });
    await assert.rejects(stranger.embeddings.create({ model, input: ONE }), (error) => {
      assert.ok(error instanceof OpenAI.AuthenticationError);
      assert.equal(error.code, "invalid_api_key");
      return true;
    });
  },
  "usage is the same again": async () => {
    const [first, again] = [await embed(TEXTS), await embed(TEXTS)];
    assert.deepEqual(first.usage, again.usage);
  },
  "every answer has an id": async () => {
    const ids = new Set();
    for (let asked = 0; asked < 3; asked += 1) {
      const { request_id } = await client.embeddings.create({ model, input: ONE }).withResponse();
      assert.ok(request_id);
      ids.add(request_id);
    }
    assert.equal(ids.size, 3);
  },
  "many requests at once each have their own vectors": async () => {
    const wanted = await alone(TEXTS);
    const asked = Array.from({ length: 32 }, (_, place) => place % 3);
    const found = await Promise.all(asked.map((place) => embed(TEXTS[place])));
    assertSame(found.map((answer) => vectors(answer)[0]), asked.map((place) => wanted[place]));
  },
  "models are listed and retrieved": async () => {
    const listed = [];
    for await (const each of client.models.list()) listed.push(each);
    assert.ok(listed.length > 0);
    for (const each of listed) assert.deepEqual(await client.models.retrieve(each.id), each);
    await assert.rejects(client.models.retrieve("a-model-that-there-is-not"), OpenAI.NotFoundError);
  },
};

const outcomes = [];
for (const [check, run] of Object.entries(checks)) {
  try {
    const skipped = await run();
    const told = typeof skipped === "string" ? skipped : "";
    outcomes.push({ check, verdict: told ? "skipped" : "passed", reason: told });
  } catch (error) {
    outcomes.push({ check, verdict: "failed", reason: String(error) });
  }
}
console.log(JSON.stringify(outcomes));
