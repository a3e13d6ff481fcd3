// Use a server's vector stores through OpenAI's SDK for Node, and print what each check found, as JSON.
//
//     node stores.mjs MODULES '{"url": "http://127.0.0.1:8080/v1", "model": "...", "key": ""}'
//
// MODULES is the folder in which the SDK is installed.
import assert from "node:assert/strict";
import { createRequire } from "node:module";
import path from "node:path";
import process from "node:process";

const [modules, said] = process.argv.slice(2);
const { url, key } = JSON.parse(said);
const { OpenAI, toFile } = createRequire(path.join(path.resolve(modules), "/"))("openai");

const client = new OpenAI({ baseURL: url, apiKey: key || "none", maxRetries: 0 });
const POLL = { pollIntervalMs: 50 };
const BAD = Buffer.from([0, 1, 2]);

const file = (name, content) => toFile(Buffer.from(content), name);
const all = async (pages) => {
  const found = [];
  for await (const each of pages) found.push(each);
  return found;
};

const checks = {
  "a file is uploaded, waited for, found and taken out": async () => {
    const store = await client.vectorStores.create({ name: "handbook", metadata: { team: "ops" } });
    const attached = await client.vectorStores.files.uploadAndPoll(
      store.id, await file("tea.md", "# Tea\n\nTea is served at four."), POLL,
    );
    assert.equal(attached.status, "completed");
    assert.equal(attached.last_error, null);
    const [hit] = await all(client.vectorStores.search(store.id, { query: "When is tea served?" }));
    assert.equal(hit.filename, "tea.md");
    assert.ok(hit.score >= 0 && hit.score <= 1);
    assert.ok(hit.content[0].text.includes("served at four"));
    const content = await all(client.vectorStores.files.content(attached.id, { vector_store_id: store.id }));
    assert.ok(content.map((part) => part.text).join("").includes("served at four"));
    const changed = await client.vectorStores.files.update(attached.id, {
      vector_store_id: store.id, attributes: { author: "Ada", year: 1843, draft: false },
    });
    assert.deepEqual(changed.attributes, { author: "Ada", year: 1843, draft: false });
    assert.ok((await client.vectorStores.files.delete(attached.id, { vector_store_id: store.id })).deleted);
    assert.deepEqual(await all(client.vectorStores.search(store.id, { query: "tea" })), []);
    assert.ok((await client.vectorStores.delete(store.id)).deleted);
    await assert.rejects(client.vectorStores.retrieve(store.id), (error) => error.status === 404);
  },
  "of a batch with a bad file the others are completed, and each is found": async () => {
    const store = await client.vectorStores.create();
    const texts = [...Array(6).keys()].map((number) => `The word of file ${number} is w${number * 7919}.`);
    const files = await Promise.all(texts.map((text, number) => file(`${number}.txt`, text)));
    const batch = await client.vectorStores.fileBatches.uploadAndPoll(
      store.id, { files: [...files, await file("bad.bin", BAD)] }, POLL,
    );
    assert.deepEqual(batch.file_counts, { in_progress: 0, completed: 6, failed: 1, cancelled: 0, total: 7 });
    for (const [number, text] of texts.entries()) {
      const { data } = await client.vectorStores.search(store.id, { query: text, max_num_results: 1 });
      assert.equal(data[0].filename, `${number}.txt`);
    }
    const failed = await all(
      client.vectorStores.fileBatches.listFiles(batch.id, { vector_store_id: store.id, filter: "failed" }),
    );
    assert.equal(failed[0].last_error.code, "unsupported_file");
    assert.equal((await all(client.vectorStores.files.list(store.id, { limit: 2 }))).length, 7);
  },
  "a poller of a cancelled batch returns": async () => {
    const store = await client.vectorStores.create();
    const ids = [];
    for (const number of Array(3).keys()) {
      const sent = await client.files.create({ file: await file(`${number}.txt`, "text"), purpose: "assistants" });
      ids.push(sent.id);
    }
    const batch = await client.vectorStores.fileBatches.create(store.id, { file_ids: ids });
    await client.vectorStores.fileBatches.cancel(batch.id, { vector_store_id: store.id });
    const polled = await client.vectorStores.fileBatches.poll(store.id, batch.id, POLL);
    assert.equal(polled.file_counts.in_progress, 0);
  },
};

const found = [];
for (const [check, run] of Object.entries(checks)) {
  try {
    await run();
    found.push({ check, verdict: "passed" });
  } catch (error) {
    found.push({ check, verdict: "failed", reason: String(error?.stack ?? error) });
  }
}
process.stdout.write(JSON.stringify(found));
