// Collections: what is indexed, how fresh, its versions, and its rows.

import { get, post } from "../api.js";
import { badge, confirm, facts, fill, h, prose, say, table } from "../dom.js";
import { ago, bytes, count, moment, money, number, short } from "../format.js";
import { rowBrowser } from "../rows.js";

export async function show(root, context) {
  return context.rest[0] ? one(root, context) : all(root, context);
}

async function all(root, { signal }) {
  const { collections } = await get("/v1/collections", signal);
  const rows = collections.reduce((sum, each) => sum + each.rows, 0);
  fill(root,
    h("div", { class: "head" }, h("h1", { tabindex: "-1" }, "Collections"), h("p", {}, `${count(collections.length, "collection")}, ${count(rows, "row")}`)),
    h("div", { class: "panel flush" }, table("Collections", [
      { name: "Name", cell: (each) => h("a", { href: `#/collections/${encodeURIComponent(each.name)}` }, each.name) },
      { name: "Rows", number: true, cell: (each) => each.problem ? badge("unreadable", "failed") : number(each.rows) },
      { name: "Updated", cell: (each) => h("span", { title: moment(each.updated) }, each.updated ? ago(each.updated) : "") },
      { name: "Version", number: true, cell: (each) => each.version || "" },
      { name: "Vector index", cell: (each) => each.problem ? "" : indexed(each) },
      { name: "Space", cell: (each) => h("span", { title: each.model }, h("span", { class: "mono" }, each.space), each.dimensions ? `, ${each.dimensions} dimensions` : "") },
      { name: "", cell: (each) => each.problem ? h("span", {}, each.problem) : h("span", { class: "row" }, h("a", { href: `#/search?c=${encodeURIComponent(each.name)}` }, "Search"), each.rows > 0 && h("a", { href: `#/map/${encodeURIComponent(each.name)}` }, "Map")) },
    ], collections, { empty: "Nothing is indexed yet; start with `flowbed run`." })));
}

function indexed({ rows, unindexed_rows: left }) {
  if (!rows) return "";
  if (left === rows) return "not needed yet";
  return left ? `${number(left)} rows not in it yet` : "complete";
}

async function one(root, { rest: [name], session, signal, again }) {
  const path = `/v1/collections/${encodeURIComponent(name)}`;
  const [{ collections }, { versions }, spent] = await Promise.all([
    get("/v1/collections", signal), get(`${path}/versions`, signal), session.admin ? costOf(name, signal) : null,
  ]);
  const found = collections.find((each) => each.name === name);
  if (!found) throw new Error(`There is no collection called ${short(name, 64)}.`);
  const difference = h("div", {});
  let end = null;
  fill(root,
    h("div", { class: "head" }, h("h1", { tabindex: "-1" }, name), h("div", { class: "row" },
      h("a", { href: `#/search?c=${encodeURIComponent(name)}` }, "Search"), found.rows > 0 && h("a", { href: `#/map/${encodeURIComponent(name)}` }, "Map"), h("a", { href: "#/collections" }, "All collections"))),
    h("div", { class: "panel" }, facts([
      ["Rows", number(found.rows)], ["Updated", found.updated && h("span", { title: moment(found.updated) }, ago(found.updated))], ["Version", found.version],
      ["Vector index", indexed(found)], ["Model", found.model], ["Dimensions", number(found.dimensions)], ["Space", h("span", { class: "mono" }, found.space)],
      ["Paid so far", spent],
    ])),
    h("div", { class: "panel flush" }, h("h2", {}, "Versions"), table("Versions", [
      { name: "Version", cell: (each) => each.version },
      { name: "Written", cell: (each) => h("span", { title: ago(each.created) }, moment(each.created)) },
      { name: "Rows", number: true, cell: (each) => number(each.rows) },
      { name: "Change", number: true, cell: (each) => change(versions, each) },
      { name: "Size", number: true, cell: (each) => bytes(each.bytes) },
      { name: "Tags", cell: (each) => each.tags.map((tag) => badge(tag)) },
      { name: "", cell: (each) => h("span", { class: "row" },
        before(versions, each) && h("button", { type: "button", class: "quiet", onclick: () => compare(before(versions, each), each) }, "Difference"),
        session.admin && each.version !== found.version && h("button", { type: "button", class: "quiet", onclick: () => rollBack(each) }, "Roll back…")) },
    ], versions), difference),
    h("div", { class: "panel flush" }, h("h2", {}, "Rows"), end = rowBrowser(path, signal)));

  async function compare(from, to) {
    fill(difference, h("p", { class: "empty", role: "status" }, "Comparing…"));
    try {
      const found = await get(`${path}/changes?start=${from.version}&end=${to.version}`, signal);
      fill(difference, h("section", { class: "panel", tabindex: "-1", "aria-label": "Difference" },
        h("h3", {}, `From version ${found.start} to ${found.end}: ${count(found.upserts, "row")} written, ${number(found.deletes)} deleted`),
        found.written.map((each) => h("div", { class: "passage" }, h("p", { class: "hint mono" }, "+ ", each.id), h("p", { class: "text" }, short(each.document, 240)))),
        found.deleted.map((each) => h("div", { class: "passage" }, h("p", { class: "hint mono" }, "− ", each))),
        found.upserts > found.written.length && h("p", { class: "hint" }, `and ${number(found.upserts - found.written.length)} more written`)));
      difference.firstChild.focus();
    } catch (error) {
      if (!signal.aborted) fill(difference, h("p", { class: "problem", role: "alert" }, prose(error.message)));
    }
  }

  async function rollBack({ version, rows, created }) {
    const sure = await confirm(`Roll ${name} back to version ${version}?`,
      `Searches then see the ${count(rows, "row")} of ${moment(created)}, as a new version. What was committed since is kept aside, and \`flowbed rollback ${name} --release\` brings it back without paying again.`, "Roll back");
    if (!sure) return;
    try {
      const done = await post("/v1/admin/rollback", { collection: name, version }, signal);
      say(`${name} has the contents of version ${version}, as version ${done.version}`);
      again();
    } catch (error) {
      if (!signal.aborted) fill(difference, h("p", { class: "problem", role: "alert" }, prose(error.message)));
    }
  }
  return end.stop;
}

async function costOf(collection, signal) {
  const { collections } = await get("/v1/admin/spending", signal);
  return money(collections[collection] ?? 0);
}

const before = (versions, { version }) => versions[versions.findIndex((each) => each.version === version) + 1];

function change(versions, each) {
  const previous = before(versions, each);
  if (!previous) return "";
  const by = each.rows - previous.rows;
  return by > 0 ? `+${number(by)}` : by < 0 ? `−${number(-by)}` : "0";
}
