// Flow: what is where between the sources and the publications, live.

import { events, stream } from "../api.js";
import { badge, fill, h, prose, table } from "../dom.js";
import { ago, count, moment, number, span } from "../format.js";

const KEPT = 60; // samples from which rates are taken

export async function show(root, { signal, session }) {
  const live = h("p", { class: "live", role: "status" }, "live");
  const stages = h("ol", { class: "stages" });
  const stuck = h("div", { class: "panel" });
  const sources = h("div", { class: "panel flush" });
  const below = h("div", { class: "columns" });
  fill(root,
    h("div", { class: "head" }, h("h1", { tabindex: "-1" }, "Flow"), live),
    stages, stuck, sources, below);
  const samples = [];
  const off = (event) => { live.classList.toggle("off", event.type === "gone"); fill(live, event.type === "gone" ? "waiting for the server" : "live"); };
  events.addEventListener("gone", off, { signal });
  events.addEventListener("back", off, { signal });
  let first;
  const seen = new Promise((resolve, reject) => { first = { resolve, reject }; });
  stream("/v1/admin/flow/events", (flow) => {
    samples.push(flow);
    if (samples.length > KEPT) samples.shift();
    drawStages(stages, samples);
    drawStuck(stuck, flow, session);
    drawSources(sources, flow, session);
    drawBelow(below, flow);
    first.resolve();
  }, signal).catch(first.reject);
  await seen;
}

function drawStages(place, samples) {
  const flow = samples.at(-1);
  const troubled = (state) => flow.stuck.some((each) => each.state === state);
  const newest = Math.max(0, ...flow.publications.map((each) => each.at));
  const stages = [
    ["Sources", number(flow.sources.length), count(flow.sources.reduce((sum, each) => sum + each.documents, 0), "document")],
    ["Waiting", number(flow.waiting), rate(samples, (each) => -each.waiting, "taken") || (flow.failed ? `${number(flow.failed)} failed` : "chunks to embed"), flow.failed && "failed" || flow.waiting && troubled("waiting") && "waiting"],
    ["Embedding", number(flow.embedding), flow.submitted ? `${number(flow.answered)} of ${number(flow.submitted)} texts submitted are answered` : flow.workers ? count(flow.workers, "worker") : "nobody at work"],
    ["Deltas", number(flow.deltas.length), flow.deltas.length ? flow.deltas.join(", ") : "none to commit"],
    ["Index", number(flow.rows), rate(samples, (each) => each.rows, "written") || count(flow.collections.length, "collection")],
    ["Publications", number(flow.publications.length), newest ? `newest ${ago(newest)}` : "none"],
  ];
  fill(place, stages.map(([name, figure, note, state]) => h("li", { class: state || undefined },
    h("div", { class: "name" }, name), h("div", { class: "figure" }, figure), h("div", { class: "rate" }, note))));
}

/** Say how fast a figure grew over the samples, in a minute; empty if it did not. */
function rate(samples, figure, verb) {
  const [from, to] = [samples[0], samples.at(-1)];
  const minutes = (to.at - from.at) / 6e7;
  const grown = figure(to) - figure(from);
  return minutes > 0 && grown > 0 ? `${number(Math.round(grown / minutes))}/min ${verb}` : "";
}

function drawStuck(place, flow) {
  fill(place, h("h2", {}, "Stuck"), flow.stuck.length
    ? h("ul", { class: "stuck" }, flow.stuck.map((each) => h("li", {}, badge(each.state, each.state), h("span", {}, h("b", {}, each.what), `: ${each.why}`, each.fix.startsWith("flowbed dead-letters") && [" ", h("a", { href: "#/letters" }, "Show them")]), h("code", {}, each.fix))))
    : h("p", { class: "note" }, "Nothing is stuck."));
}

function drawSources(place, flow, session) {
  fill(place, h("h2", {}, "Sources"), table("Sources", [
    { name: "Source", cell: (each) => each.name },
    { name: "Documents", number: true, cell: (each) => number(each.documents) },
    { name: "Fetched by the watch", cell: (each) => each.last ? h("span", { title: moment(each.last) }, ago(each.last, flow.at / 1000)) : each.fetched ? "by hand" : "never" },
    { name: "Next", cell: (each) => next(each, flow, session) },
    { name: "", cell: (each) => [!each.configured && badge("not in the settings"), each.followed && badge("follows its files", "ok")] },
  ], flow.sources, { empty: "No source yet: `flowbed add NAME KIND LOCATION` names one." }));
}

function next(each, flow, session) {
  if (!each.next) return session.watching ? "at once" : prose("when `flowbed watch` runs");
  const late = (flow.at - each.next) / 1e6;
  return h("span", { title: moment(each.next) }, late > 0 ? `due for ${span(late)}` : ago(each.next, flow.at / 1000));
}

function drawBelow(place, flow) {
  fill(place,
    h("div", { class: "panel flush" }, h("h2", {}, "Newest runs"), table("Newest runs", [
      { name: "Begun", cell: (each) => h("span", { title: moment(each.created) }, ago(each.created, flow.at / 1000)) },
      { name: "Collection", cell: (each) => each.collection },
      { name: "Lane", cell: (each) => each.lane },
      { name: "Rows", number: true, cell: (each) => number(each.rows) },
      { name: "State", cell: (each) => badge(each.state, { committed: "ok", pending: "waiting", refused: "failed" }[each.state]) },
    ], flow.runs)),
    h("div", { class: "panel flush" }, h("h2", {}, "Publications"), table("Publications", [
      { name: "Name", cell: (each) => each.name },
      { name: "Collection", cell: (each) => each.collection },
      { name: "Version", number: true, cell: (each) => each.version },
      { name: "Behind", number: true, cell: (each) => behind(each, flow) },
      { name: "Published", cell: (each) => h("span", { title: moment(each.at) }, ago(each.at, flow.at / 1000)) },
    ], flow.publications, { empty: "None: [publish.NAME] in the settings adds one." })));
}

function behind(each, flow) {
  const collection = flow.collections.find(({ name }) => name === each.collection);
  const versions = collection ? collection.version - each.version : 0;
  return versions > 0 ? count(versions, "version") : "no";
}
