// Use a server through Chroma's package for Node, and print what each check found, as JSON.
//
//     node chroma.mjs MODULES '{"host": "127.0.0.1", "port": 8080, "vectors": [[...], [...], [...]]}'
//
// MODULES is the folder in which the package is installed; `vectors` are three unit vectors of the server's model.
import assert from "node:assert/strict";
import { createRequire } from "node:module";
import path from "node:path";
import process from "node:process";

const [modules, said] = process.argv.slice(2);
const { host, port, vectors } = JSON.parse(said);
const require = createRequire(path.join(path.resolve(modules), "/"));
const { ChromaClient, ChromaNotFoundError } = require("chromadb");

const client = new ChromaClient({ host, port, ssl: false });
const embeddingFunction = { name: "given", generate: async (texts) => texts.map(() => vectors[0]) };
const open = (name) => client.getCollection({ name, embeddingFunction });

async function fails(work, kind) {
  await assert.rejects(work, (error) => {
    assert.ok(!kind || error instanceof kind, `${error.constructor.name}: ${error.message}`);
    return true;
  });
}

const checks = {
  "the server answers": async () => {
    assert.ok((await client.heartbeat()) > 0);
    assert.equal(typeof (await client.version()), "string");
  },
  "collections of the project are listed and counted": async () => {
    const names = (await client.listCollections()).map((each) => each.name);
    assert.ok(names.includes("docs"));
    assert.equal(await client.countCollections(), names.length);
    const docs = await open("docs");
    assert.equal(await docs.count(), 20);
    assert.equal(docs.metadata["hnsw:space"], "cosine");
  },
  "rows are got by id, filter and position": async () => {
    const docs = await open("docs");
    const one = await docs.get({ ids: ["docs#d3#00000"], include: ["documents", "metadatas", "embeddings"] });
    assert.deepEqual(one.documents, ["sentence 3"]);
    assert.equal(one.metadatas[0].n, 3);
    assert.equal(one.embeddings[0].length, vectors[0].length);
    assert.equal((await docs.get({ where: { n: { $lt: 5 } } })).ids.length, 5);
    assert.equal((await docs.get({ whereDocument: { $contains: "sentence 1" } })).ids.length, 11);
    assert.equal((await docs.get({ limit: 3, offset: 18 })).ids.length, 2);
    assert.equal((await docs.peek({ limit: 4 })).ids.length, 4);
  },
  "rows near a vector are found": async () => {
    const docs = await open("docs");
    const [row] = (await docs.get({ ids: ["docs#d7#00000"], include: ["embeddings"] })).embeddings;
    const found = await docs.query({ queryEmbeddings: [row], nResults: 3, where: { n: { $gt: 5 } } });
    assert.equal(found.ids[0][0], "docs#d7#00000");
    assert.ok(Math.abs(found.distances[0][0]) < 1e-5);
    assert.equal(found.ids[0].length, 3);
  },
  "a collection that is not there is not found": async () => {
    await fails(() => open("nowhere"), ChromaNotFoundError);
  },
  "rows are added, upserted, updated and deleted": async () => {
    const name = "from-node";
    const made = await client.createCollection({ name, metadata: { by: "node" }, embeddingFunction });
    await fails(() => client.createCollection({ name, embeddingFunction }));
    await made.add({ ids: ["a", "b"], embeddings: vectors.slice(0, 2), documents: ["one", "two"], metadatas: [{ n: 1 }, { n: 2 }] });
    await made.add({ ids: ["a"], embeddings: [vectors[2]], documents: ["ignored"] });
    await made.upsert({ ids: ["b", "c"], embeddings: vectors.slice(1), metadatas: [{ m: true }, { n: 3 }], documents: ["two", "three"] });
    await made.update({ ids: ["c", "unknown"], documents: ["changed", "nothing"] });
    const found = await made.get();
    assert.deepEqual(found.ids, ["a", "b", "c"]);
    assert.deepEqual(found.documents, ["one", "two", "changed"]);
    assert.deepEqual(found.metadatas.map((each) => ({ ...each })), [{ n: 1 }, { m: true, n: 2 }, { n: 3 }]);
    await made.modify({ metadata: { by: "test" } });
    assert.equal((await open(name)).metadata.by, "test");
    await made.delete({ where: { n: { $gte: 2 } } });
    assert.equal(await made.count(), 1);
    await client.deleteCollection({ name });
    await fails(() => open(name), ChromaNotFoundError);
  },
};

const outcomes = {};
for (const [name, check] of Object.entries(checks)) {
  outcomes[name] = await check().then(() => "passed", (error) => `${error.name}: ${error.message}`);
}
process.stdout.write(JSON.stringify(outcomes));
