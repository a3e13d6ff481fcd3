// Search: a question, where to look, conditions, and hits that say why they are there.

import { events, get, post } from "../api.js";
import { remember } from "../app.js";
import * as areas from "../area.js";
import { badge, copy, facts, fill, h, link, prose } from "../dom.js";
import { write } from "../exact.js";
import { OPERATORS, read, TEXT, valueOf, whereOf } from "../filters.js";
import { count, moment, number, short } from "../format.js";
import { highlighted, wordsIn } from "../highlight.js";

const MODES = [["vector", "by meaning"], ["text", "by words"], ["hybrid", "by both"]];
const SCORES = { vector: "Cosine similarity", text: "BM25", hybrid: "What the ranks by meaning and by words give" };
const ORDERS = [["score", "best first"], ["newest", "newest first"], ["oldest", "oldest first"]];
const LIMITS = [10, 20, 50, 100];
const VALUES = 50; // of a field that are offered
// What a hit says of itself elsewhere, and positions that only programs need.
const UNTOLD = new Set(["document", "url", "start", "end"]);
const CUT = 700; // characters from which a text is folded

export async function show(root, { params, signal, session, again }) {
  const listing = get("/v1/collections", signal); // the box can be used before it is there
  const state = {
    query: params.get("q") ?? "", collection: params.get("c") ?? "", unit: params.get("unit") === "document" ? "document" : "chunk",
    limit: LIMITS.includes(Number(params.get("n"))) ? Number(params.get("n")) : 10, conditions: read(params.get("f")),
    mode: MODES.some(([mode]) => mode === params.get("mode")) ? params.get("mode") : "vector",
    order: ORDERS.some(([order]) => order === params.get("order")) ? params.get("order") : "score", like: params.get("like") ?? "",
    area: params.get("c") ? areas.read(params.get("area")) : null, ids: null, // of the rows in the area, once they are known
  };
  const fields = new Fields(signal);
  const chips = h("div", { class: "row", role: "group", "aria-label": "Conditions" });
  const results = h("section", { "aria-label": "Hits", class: "view" });
  const query = h("input", {
    type: "search", id: "query", name: "q", value: state.query, placeholder: "Ask for something", autocomplete: "off",
    "aria-label": "Query", "data-first": true, enterkeyhint: "search",
  });
  let running = null;

  const choose = (label, name, options, value) => h("label", {}, label, h("select", {
    name, "aria-label": label ? undefined : { mode: "How to search", order: "Order" }[name], onchange: (event) => { state[name] = name === "limit" ? Number(event.target.value) : event.target.value; changed(name); },
  }, options.map(([key, text]) => h("option", { value: key, selected: String(key) === String(value) }, text))));

  function changed(name) {
    if (name === "collection") { state.area = state.ids = null; drawChips(); }
    save();
    if (state.like || query.value.trim()) search({ like: state.like });
  }

  function save() {
    const kept = new URLSearchParams();
    if (state.like) kept.set("like", state.like);
    else if (state.query) kept.set("q", state.query);
    if (state.collection) kept.set("c", state.collection);
    if (state.unit !== "chunk") kept.set("unit", state.unit);
    if (state.limit !== 10) kept.set("n", state.limit);
    if (state.order !== "score") kept.set("order", state.order);
    if (state.mode !== "vector") kept.set("mode", state.mode);
    if (state.conditions.length) kept.set("f", write(state.conditions));
    if (state.area) kept.set("area", areas.write(state.area));
    remember("search", [], kept);
  }

  function condition(field, operator, value) {
    if (!state.conditions.some((each) => write(each) === write([field, operator, value]))) state.conditions.push([field, operator, value]);
    drawChips();
    changed("conditions");
  }

  function drawChips({ adding = false } = {}) {
    const set = state.conditions.map((each, place) => h("span", { class: "chip set" },
      each[0] === TEXT ? "text" : each[0], " ", each[0] === TEXT ? "contains" : OPERATORS[each[1]], " ", short(String(each[2]), 40),
      h("button", { type: "button", "aria-label": `Remove the condition on ${each[0] === TEXT ? "text" : each[0]}`, onclick: () => {
        state.conditions.splice(place, 1);
        drawChips();
        changed("conditions");
      } }, "×")));
    const like = state.like && h("span", { class: "chip set" }, "like ", short(state.like, 60), h("button", { type: "button", "aria-label": "Search by a text again", onclick: () => {
      state.like = "";
      drawChips();
      fill(results);
      save();
      query.focus();
    } }, "×"));
    const area = state.area && h("span", { class: "chip set" }, state.ids ? `the ${count(state.ids.length, "passage")} selected on the map` : "what is selected on the map", h("button", { type: "button", "aria-label": "Search outside the selection too", onclick: () => {
      state.area = state.ids = null;
      drawChips();
      changed("area");
    } }, "×"));
    fill(chips, like, area, set, h("button", { type: "button", class: "quiet", "aria-expanded": String(adding), onclick: () => drawChips({ adding: !adding }) }, adding ? "Cancel" : "+ Condition"));
    if (adding) fields.of(state.collection).then((known) => {
      const form = adder(known, condition);
      chips.append(form);
      form.querySelector("select").focus();
    }).catch((error) => chips.append(h("span", { class: "hint" }, error.message)));
  }

  function body() {
    const conditions = state.ids ? [["$id", "$in", state.ids], ...state.conditions] : state.conditions;
    return {
      ...(state.like ? { like: state.like } : { query: state.query }), ...(state.collection && { collection: state.collection }),
      ...(conditions.length && { where: whereOf(conditions) }), limit: state.limit,
      ...(state.unit === "document" && { unit: "document" }), ...(state.mode !== "vector" && !state.like && { mode: state.mode }),
      ...(state.order !== "score" && { order: state.order }),
    };
  }

  async function search({ like = "" } = {}) {
    state.query = query.value.trim();
    if (state.like !== like) { state.like = like; drawChips(); }
    if (!state.query && !like) { query.focus(); return; }
    save();
    running?.abort();
    const mine = running = new AbortController();
    signal.addEventListener("abort", () => mine.abort(), { once: true });
    results.setAttribute("aria-busy", "true");
    fill(go, "Stop");
    const slow = setTimeout(() => fill(results, h("p", { class: "empty", role: "status" }, "Still searching…")), 1500);
    const began = performance.now();
    try {
      if (state.area && !state.ids) {
        state.ids = await areas.idsIn(state.collection, state.area, mine.signal);
        drawChips();
      }
      const found = await post("/v1/search", body(), mine.signal);
      fill(results, drawn(found, performance.now() - began));
    } catch (error) {
      if (mine !== running) return;
      if (state.area && error.status === 404) error.message = "The map has changed since the selection: select again on the new one.";
      if (mine.signal.aborted) { fill(results, h("p", { class: "empty" }, "Stopped.")); return; }
      const problem = h("div", { class: "problem", role: "alert" }, h("p", {}, prose(error.message)), h("button", { type: "button", onclick: () => search({ like }) }, "Try again"));
      fill(results, problem);
      if (!error.status) events.addEventListener("back", () => { if (problem.isConnected && !running) search({ like }); }, { once: true, signal });
    } finally {
      clearTimeout(slow);
      if (mine === running) {
        running = null;
        fill(go, "Search");
        results.removeAttribute("aria-busy");
      }
    }
  }

  function drawn(found, milliseconds) {
    const best = state.mode === "text" ? found.hits[0]?.score : 1; // BM25 has no upper end
    const versions = Object.entries(found.versions).map(([name, version]) => `${name} at version ${version}`).join(", ");
    return [
      h("div", { class: "head" },
        h("p", { role: "status" }, `${count(found.hits.length, "hit")} in ${number(Math.round(milliseconds))} ms`, versions && ` · ${versions}`),
        asCode(body(), session)),
      found.warnings.map((each) => h("p", { class: "note" }, badge("note", "waiting"), " ", prose(each))),
      found.hits.length
        ? listed(found, best)
        : h("p", { class: "empty" }, "Nothing found. Fewer conditions or other words may help."),
    ];
  }

  function listed(found, best) {
    const asked = body();
    const list = h("ol", { class: "hits" });
    const more = h("div", { class: "row" });
    let place = 0;
    function add(page) {
      list.append(...page.hits.map((hit) => drawHit(hit, { place: place++, best, state, condition, signal, versions: page.versions, alike: (id) => search({ like: id }) })));
      fill(more, page.next && h("button", { type: "button", onclick: (event) => next(event.currentTarget, page.next) }, "Show more"));
    }
    async function next(button, cursor) {
      button.disabled = true;
      try {
        add(await post("/v1/search", { ...asked, cursor }, signal));
      } catch (error) {
        if (signal.aborted) return;
        button.disabled = false;
        fill(more, button, h("p", { class: "problem", role: "alert" }, prose(error.message)));
      }
    }
    add(found);
    return [list, more];
  }

  const go = h("button", { class: "primary", type: "submit" }, "Search");
  const form = h("form", { role: "search", class: "searching", onsubmit: (event) => {
    event.preventDefault();
    if (running) running.abort(); else search();
  } },
  h("div", { class: "asked" }, query, go),
  h("div", { class: "row" },
    choose("in", "collection", [["", "all collections"], ...(state.collection ? [[state.collection, state.collection]] : [])], state.collection),
    choose("", "mode", MODES, state.mode),
    choose("each hit is a", "unit", [["chunk", "passage"], ["document", "document"]], state.unit),
    choose("show", "limit", LIMITS.map((each) => [each, each]), state.limit), choose("", "order", ORDERS, state.order), chips));
  drawChips();
  fill(root, h("h1", { class: "hidden" }, "Search"), h("div", { class: "panel" }, form), results);
  listing.then(begin).catch((error) => {
    if (signal.aborted) return;
    if (!error.status) events.addEventListener("back", () => again(), { once: true, signal });
    fill(results, h("div", { class: "problem", role: "alert" }, h("p", {}, prose(error.message)), h("button", { type: "button", onclick: () => again() }, "Try again")));
  });

  async function begin({ collections }) {
    if (!collections.some((each) => each.name === state.collection)) state.collection = "";
    fill(form.elements.collection, h("option", { value: "" }, "all collections"), collections.map((each) =>
      h("option", { value: each.name, selected: each.name === state.collection }, `${each.name} (${number(each.rows)})`)));
    if (!collections.length) {
      fill(results, h("div", { class: "panel" }, h("h2", {}, "Nothing is indexed yet"), h("p", {}, "Name a source and run once; this page then searches it."), h("pre", {}, "flowbed add handbook files handbook\nflowbed run")));
    } else if ((state.query || state.like) && !running && !results.firstChild) await search({ like: state.like });
  }

  return () => running?.abort();
}

/** The fields that a collection's rows have, with their types and commonest values. */
class Fields {
  constructor(signal) {
    this.signal = signal;
    this.known = new Map();
  }

  async of(collection) {
    if (!this.known.has(collection)) this.known.set(collection, this.read(collection));
    return this.known.get(collection);
  }

  async read(collection) {
    const { collections } = collection ? { collections: [{ name: collection }] } : await get("/v1/collections", this.signal);
    const found = new Map();
    await Promise.all(collections.slice(0, 20).map(async ({ name }) => {
      for (const field of await fieldsOf(name, this.signal)) {
        const known = found.get(field.name) ?? { name: field.name, types: new Set(), values: new Map() };
        field.types.forEach((each) => known.types.add(each));
        field.values.forEach(([value, rows]) => known.values.set(value, (known.values.get(value) ?? 0) + rows));
        found.set(field.name, known);
      }
    }));
    return [...found.values()].sort((a, b) => a.name.localeCompare(b.name)).map((each) => ({
      name: each.name, types: [...each.types], values: [...each.values].sort((a, b) => b[1] - a[1]).slice(0, VALUES),
    }));
  }
}

/** Read which metadata a collection has, and its common values. */
async function fieldsOf(collection, signal) {
  const { fields } = await get(`/v1/collections/${encodeURIComponent(collection)}/fields?values=${VALUES}`, signal);
  return fields.map((each) => ({ name: each.name, types: Object.keys(each.types), values: each.values.map(({ value, rows }) => [value, rows]) }));
}

function adder(fields, add) {
  const values = h("datalist", { id: "values" });
  const field = h("select", { onchange: offer }, h("option", { value: TEXT }, "text"), fields.map((each) => h("option", { value: each.name }, each.name)));
  const operator = h("select", {});
  const value = h("input", { list: "values", autocomplete: "off", required: true });
  function offer() {
    const known = fields.find((each) => each.name === field.value);
    const operators = field.value === TEXT ? ["$contains"] : Object.keys(OPERATORS).filter((each) => each !== "$contains");
    fill(operator, operators.map((each) => h("option", { value: each }, OPERATORS[each])));
    fill(values, (known?.values ?? []).map(([each, rows]) => h("option", { value: String(each) }, count(rows, "row"))));
    value.value = "";
  }
  offer();
  function submit() {
    if (!value.reportValidity()) return;
    const known = fields.find((each) => each.name === field.value);
    const existing = known?.values.find(([each]) => String(each) === value.value);
    add(field.value, operator.value, existing ? existing[0] : valueOf(value.value, known?.types ?? []));
  }
  return h("div", { class: "adding", role: "group", "aria-label": "New condition", onkeydown: (event) => {
    if (event.key === "Enter" && event.target === value) { event.preventDefault(); submit(); }
  } },
  h("label", {}, "Field", field), h("label", {}, "Comparison", operator), h("label", {}, "Value", value), values,
  h("button", { type: "button", onclick: submit }, "Add"));
}

function drawHit(hit, { place, best, state, condition, signal, versions, alike }) {
  const words = wordsIn(state.query);
  const more = h("div", { class: "why", hidden: true });
  const text = h("p", { class: `text${hit.document.length > CUT ? " cut" : ""}` }, highlighted(hit.document, words, hit.highlights));
  const address = typeof hit.metadata.url === "string" ? hit.metadata.url : null;
  let opened = "";
  const open = (name, draw) => async (event) => {
    const button = event.currentTarget;
    const buttons = button.parentElement.querySelectorAll("[aria-expanded]");
    const again = opened === name;
    buttons.forEach((each) => each.setAttribute("aria-expanded", String(each === button && !again)));
    opened = again ? "" : name;
    more.hidden = again;
    if (again) return;
    fill(more, h("p", { class: "hint" }, "Loading…"));
    try {
      const drawn = await draw();
      if (opened === name) fill(more, drawn);
    } catch (error) {
      if (!signal.aborted && opened === name) fill(more, h("p", { role: "alert" }, prose(error.message)));
    }
  };
  return h("li", { class: "panel hit" },
    h("div", { class: "title" },
      h("span", { class: "score", title: SCORES[state.mode] }, hit.score.toFixed(3),
        h("meter", { min: "0", max: String(best), value: String(Math.max(0, hit.score)), "aria-label": "Score" })),
      badge(hit.collection), h("span", { class: "mono" }, hit.id)),
    text,
    hit.document.length > CUT && h("div", {}, h("button", { type: "button", class: "quiet", "aria-expanded": "false", onclick: (event) => {
      const cut = text.classList.toggle("cut");
      event.currentTarget.setAttribute("aria-expanded", String(!cut));
      fill(event.currentTarget, cut ? "Show all" : "Show less");
    } }, "Show all")),
    h("div", { class: "foot" }, h("div", { class: "row" }, Object.entries(hit.metadata).filter(([name, value]) => value !== null && value !== "" && !UNTOLD.has(name)).slice(0, 8).map(([name, value]) =>
      h("button", { type: "button", class: "chip", title: `Only where ${name} is ${value}`, onclick: () => condition(name, "$eq", value) }, h("b", {}, name), " ", short(String(value), 48)))),
    h("div", { class: "row actions-of" },
      h("button", { type: "button", class: "quiet", "aria-expanded": "false", onclick: open("why", () => why(hit, place, words, state, versions, signal)) }, "Why this hit"),
      h("button", { type: "button", class: "quiet", "aria-expanded": "false", onclick: open("around", () => around(hit, words, signal)) }, "In its document"),
      h("button", { type: "button", class: "quiet", onclick: () => alike(hit.id) }, "More like this"),
      address && link(address, "Open the place"))),
    more);
}

async function why(hit, place, words, state, versions, signal) {
  const { chunks } = await get(`/v1/why?${new URLSearchParams({ id: hit.id })}`, signal);
  const known = chunks.find((each) => each.chunk.collection === hit.collection) ?? chunks[0];
  return [
    h("p", {}, explained(hit, place, words, state)),
    facts([
      ["State", prose(known.verdict)], ["Collection", `${hit.collection}, version ${versions[hit.collection]}`], ["Source", known.chunk.source],
      ["Document", known.chunk.document], ["Passage", known.chunk.ordinal + 1], ["Tokens", number(known.chunk.tokens)],
      ["Seen", known.batch && moment(known.batch.timestamp)], ["Embedded", known.run && `${known.run.lane} lane, ${moment(known.run.created)}`],
    ]),
    known.lost_advice && h("p", { class: "note" }, badge("note", "waiting"), " ", known.lost_advice),
    h("p", { class: "hint" }, h("code", {}, `flowbed why '${hit.id.replaceAll("'", "'\\''")}'`)),
  ];
}

/** Say in a sentence or two what made it a hit. */
function explained(hit, place, words, state) {
  const among = `Of all passages${state.conditions.length || state.area ? " that fulfil the conditions" : ""}`;
  const nth = place ? `${place + 1}. best` : "best";
  if (state.like) return `${among}, its vector is the ${place ? `${place + 1}. nearest` : "nearest"} to that of ${state.like}: the cosine of the angle between them is ${hit.score.toFixed(4)}.`;
  if (state.mode === "text") return `${among}, it is the ${nth} by its words: it has ${quoted(hit.matched)}, and rare words count more (BM25 ${hit.score.toFixed(3)}).`;
  if (state.mode === "hybrid") {
    const ranked = Object.entries(hit.scores ?? {}).map(([name, score]) => `${score.toFixed(3)} by ${name === "text" ? "words" : "meaning"}`).join(" and ");
    return `${among}, it is the ${nth} by meaning and words together${ranked && `: ${ranked}`}.${hit.matched?.length ? ` It has ${quoted(hit.matched)}.` : ""}`;
  }
  const lower = hit.document.toLowerCase();
  const shared = words.filter((each) => lower.includes(each));
  return `${among}, its vector is the ${place ? `${place + 1}. nearest` : "nearest"} to that of the question: the cosine of the angle between them is ${hit.score.toFixed(4)}. ${shared.length ? `They share ${quoted(shared)}.` : "They share no word: the model finds their meanings close."}`;
}

const quoted = (words) => words.map((each) => `“${each}”`).join(", ");

async function around(hit, words, signal) {
  const { rows } = await get(`/v1/rows?${new URLSearchParams({ id: hit.id, collection: hit.collection, before: 2, after: 2 })}`, signal);
  return rows.map((row) => h("div", { class: "passage", "aria-current": row.id === hit.id ? "true" : undefined },
    h("p", { class: "hint mono" }, row.id), h("p", { class: "text" }, highlighted(row.document, words))));
}

/** Show the search as a program would ask it. */
function asCode(body, session) {
  const texts = {
    curl: curl(body, session), Python: python(body), JSON: write(body, 2),
  };
  let name = "curl";
  const shown = h("pre", { tabindex: "0", "aria-label": "The search as code" });
  const tabs = h("div", { class: "row" });
  function draw() {
    fill(tabs, Object.keys(texts).map((each) => h("button", { type: "button", "aria-pressed": String(each === name), onclick: () => { name = each; draw(); } }, each)),
      h("button", { type: "button", class: "quiet", onclick: () => copy(texts[name], name) }, "Copy"));
    fill(shown, texts[name]);
  }
  draw();
  return h("details", { class: "code" }, h("summary", {}, "As code"), h("div", { class: "panel" }, tabs, shown));
}

function curl(body, session) {
  const quoted = (text) => `'${text.replaceAll("'", "'\\''")}'`;
  const key = session.keys_required ? ' \\\n  -H "authorization: Bearer $FLOWBED_KEY"' : "";
  return `curl ${location.origin}/v1/search -H 'content-type: application/json'${key} \\\n  -d ${quoted(write(body))}`;
}

function python({ query, like, ...options }) {
  const literal = (value) => value === null ? "None" : value === true ? "True" : value === false ? "False"
    : Array.isArray(value) ? `[${value.map(literal).join(", ")}]`
      : typeof value === "object" ? `{${Object.entries(value).map(([name, each]) => `${JSON.stringify(name)}: ${literal(each)}`).join(", ")}}` : write(value);
  const named = Object.entries(options).map(([name, value]) => `, ${name}=${literal(value)}`).join("");
  return `import flowbed\n\nwith flowbed.open() as bed:  # the project in the current folder\n    for hit in bed.search(${like === undefined ? `${JSON.stringify(query)}` : `like=${JSON.stringify(like)}`}${named}):\n        print(hit.score, hit.id, hit.document)`;
}
