// Have a file answered by a server's Batch API through OpenAI's SDK for Node, and print what each check found, as JSON.
//
//     node batches.mjs MODULES '{"url": "http://127.0.0.1:8080/v1", "model": "...", "key": ""}'
//
// MODULES is the folder in which the SDK is installed.
import assert from "node:assert/strict";
import { createRequire } from "node:module";
import path from "node:path";
import process from "node:process";
import { setTimeout as sleep } from "node:timers/promises";

const [modules, said] = process.argv.slice(2);
const { url, model, key } = JSON.parse(said);
const { OpenAI, toFile } = createRequire(path.join(path.resolve(modules), "/"))("openai");

const TEXTS = ["The keys are rotated each month.", "Grüße aus Köln", "すべての書類は金庫にあります。"];
const SAME = 0.9999; // cosine of two vectors of one text
const ENDED = ["completed", "failed", "expired", "cancelled"];
const client = new OpenAI({ baseURL: url, apiKey: key || "none", maxRetries: 0 });

const line = (name, input) => ({ custom_id: name, method: "POST", url: "/v1/embeddings", body: { model, input } });
const lines = TEXTS.map((text, place) => line(`c${place}`, text));
const written = (some) => some.map((each) => `${JSON.stringify(each)}\n`).join("");

async function upload(content, more = {}) {
  return client.files.create({ file: await toFile(Buffer.from(content), "in.jsonl"), purpose: "batch", ...more });
}

async function begin(content, more = {}) {
  const file = await upload(content);
  const asked = { input_file_id: file.id, endpoint: "/v1/embeddings", completion_window: "24h" };
  return client.batches.create({ ...asked, ...more });
}

async function ended(batch) {
  while (!ENDED.includes(batch.status)) {
    await sleep(50);
    batch = await client.batches.retrieve(batch.id);
  }
  return batch;
}

async function rows(file) {
  const content = await (await client.files.content(file)).text();
  return content.split("\n").filter(Boolean).map((each) => JSON.parse(each));
}

function cosine(left, right) {
  const dot = (one, other) => one.reduce((sum, number, place) => sum + number * other[place], 0);
  return dot(left, right) / Math.sqrt(dot(left, left) * dot(right, right));
}

async function refused(kind, status, asked) {
  await assert.rejects(asked, (error) => {
    assert.ok(error instanceof kind, `wanted ${kind.name}, and it was ${error}`);
    assert.equal(error.status, status);
    assert.deepEqual(Object.keys(error.error).sort(), ["code", "message", "param", "type"]);
    return true;
  });
}

const checks = {
  "a file is sent, described and read": async () => {
    const content = written(lines);
    const file = await upload(content, { expires_after: { anchor: "created_at", seconds: 3600 } });
    assert.equal(file.bytes, Buffer.byteLength(content));
    assert.equal(file.expires_at, file.created_at + 3600);
    assert.equal((await client.files.waitForProcessing(file.id, { pollInterval: 50 })).status, "processed");
    assert.equal(await (await client.files.content(file.id)).text(), content);
  },
  "files are listed page after page": async () => {
    const made = [];
    for (let place = 0; place < 3; place += 1) made.unshift((await upload(written(lines))).id);
    const listed = [];
    for await (const file of client.files.list({ limit: 1, purpose: "batch" })) listed.push(file.id);
    assert.deepEqual(listed.filter((id) => made.includes(id)), made);
    assert.equal(new Set(listed).size, listed.length);
  },
  "a file that is deleted is gone": async () => {
    const file = await upload(written(lines));
    assert.deepEqual(await client.files.delete(file.id), { id: file.id, object: "file", deleted: true });
    await refused(OpenAI.NotFoundError, 404, client.files.retrieve(file.id));
  },
  "each line is answered once, as its request would be": async () => {
    const batch = await ended(await begin(written(lines), { metadata: { a: "b" } }));
    assert.equal(batch.status, "completed");
    assert.deepEqual(batch.metadata, { a: "b" });
    assert.deepEqual({ ...batch.request_counts }, { total: 3, completed: 3, failed: 0 });
    const found = await rows(batch.output_file_id);
    assert.deepEqual(found.map((row) => row.custom_id).sort(), ["c0", "c1", "c2"]);
    for (const row of found) {
      const input = TEXTS[Number(row.custom_id.slice(1))];
      const asked = await client.embeddings.create({ model, input, encoding_format: "float" });
      assert.ok(cosine(row.response.body.data[0].embedding, asked.data[0].embedding) >= SAME);
      assert.deepEqual(row.response.body.usage, { ...asked.usage });
    }
  },
  "a line that fails is in the error file": async () => {
    const batch = await ended(await begin(written([...lines, line("wrong", "")])));
    assert.deepEqual({ ...batch.request_counts }, { total: 4, completed: 3, failed: 1 });
    const [row, ...others] = await rows(batch.error_file_id);
    assert.equal(others.length, 0);
    assert.equal(row.custom_id, "wrong");
    assert.equal(row.response.status_code, 400);
  },
  "a line that cannot be used fails the batch": async () => {
    const batch = await ended(await begin(written([...lines, lines[0]])));
    assert.equal(batch.status, "failed");
    assert.deepEqual(batch.errors.data.map((each) => [each.code, each.line]), [["duplicate_custom_id", 4]]);
  },
  "batches are listed page after page": async () => {
    const made = [];
    for (let place = 0; place < 3; place += 1) made.unshift((await ended(await begin(written(lines)))).id);
    const listed = [];
    for await (const batch of client.batches.list({ limit: 2 })) listed.push(batch.id);
    assert.deepEqual(listed.filter((id) => made.includes(id)), made);
  },
  "what there is not, is over, or cannot be is refused": async () => {
    await refused(OpenAI.NotFoundError, 404, client.batches.retrieve("batch_that_there_is_not"));
    await refused(OpenAI.BadRequestError, 400, begin(written(lines), { completion_window: "1h" }));
    const over = await ended(await begin(written(lines)));
    await refused(OpenAI.ConflictError, 409, client.batches.cancel(over.id));
  },
};

const outcomes = [];
for (const [check, run] of Object.entries(checks)) {
  try {
    await run();
    outcomes.push({ check, verdict: "passed", reason: "" });
  } catch (error) {
    outcomes.push({ check, verdict: "failed", reason: String(error) });
  }
}
console.log(JSON.stringify(outcomes));
