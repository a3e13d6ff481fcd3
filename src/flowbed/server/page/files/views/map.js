// Map: the vectors of a collection in a plane, to look around in.

import { download, events, get, post } from "../api.js";
import { MOST, write } from "../area.js";
import { remember } from "../app.js";
import { facts, fill, h, prose, svg } from "../dom.js";
import { bytes, count, moment, number, short } from "../format.js";
import { coloured, Plot, RAMPS, readMap } from "../plot.js";

const LISTED = 40; // rows of a selection that are read
const KINDS = { topic: "topic", source: "source", time: "time" };

export async function show(root, context) {
  const { rest, params, signal } = context;
  const { collections } = await get("/v1/collections", signal);
  const filled = collections.filter((each) => each.rows);
  const name = filled.some((each) => each.name === rest[0]) ? rest[0] : filled[0]?.name;
  if (!name) {
    fill(root, h("h1", { tabindex: "-1" }, "Map"), h("div", { class: "panel" }, h("p", {}, prose("Nothing is indexed yet; start with `flowbed run`."))));
    return undefined;
  }
  const path = `/v1/collections/${encodeURIComponent(name)}/map`;
  const loading = h("p", { class: "empty", role: "status" }, "Projecting the vectors…");
  const box = h("div", { class: "canvas", "aria-busy": "true" }, loading);
  const legend = h("div", { class: "panel" });
  const reading = h("div", { class: "panel", "aria-live": "polite" }, h("p", { class: "note" }, "Click a point to read it. Lasso draws a line around some. Arrow keys move, + and − zoom, Enter reads the point in the middle."));
  const choices = h("div", { class: "row" });
  const about = h("p", {});
  fill(root,
    h("div", { class: "head" }, h("h1", { tabindex: "-1" }, `Map of ${name}`), choices, about),
    h("div", { class: "mapping" }, box, h("div", { class: "side" }, legend, reading)));

  let wanted = 0; // the newest reading
  let map, plot, kind = params.get("by") in KINDS ? params.get("by") : "topic";
  const off = new Set(); // names of groups that are hidden
  const theme = () => getComputedStyle(document.documentElement).colorScheme.includes("dark") ? "dark" : "light";

  load().catch((error) => {
    if (signal.aborted) return;
    if (!error.status) events.addEventListener("back", () => context.again(), { once: true, signal });
    fill(box, h("div", { class: "problem", role: "alert" }, h("p", {}, prose(error.message)), h("button", { type: "button", onclick: () => context.again() }, "Try again")));
  });
  events.addEventListener("theme", () => plot && paint(), { signal });
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => plot && paint(), { signal });
  return () => plot?.stop();

  async function load() {
    const buffer = await download(path, signal, (length) => { loading.textContent = `Loading, ${bytes(length)}…`; });
    map = readMap(buffer);
    fill(box, tools());
    plot = new Plot(box, map, { picked, chosen, label: `Map of ${count(map.points, "passage")}. Arrow keys move, plus and minus zoom, Enter reads the passage in the middle.` });
    box.plot = plot; // for who measures it
    box.removeAttribute("aria-busy");
    fill(about, `${map.points < map.rows ? `${number(map.points)} of ${count(map.rows, "row")}` : count(map.rows, "row")} at version ${map.version}; the plane holds ${Math.round((map.explained[0] + map.explained[1]) * 100)} % of the variance`);
    fill(choices,
      h("label", {}, "collection", h("select", { onchange: (event) => { location.hash = `#/map/${encodeURIComponent(event.target.value)}`; } }, filled.map((each) => h("option", { value: each.name, selected: each.name === name }, each.name)))),
      h("label", {}, "coloured by", h("select", { onchange: (event) => { kind = event.target.value; off.clear(); remember("map", [name], new URLSearchParams({ by: kind })); paint(); } },
        Object.keys(KINDS).filter((each) => each !== "time" || map.time).map((each) => h("option", { value: each, selected: each === kind }, KINDS[each])))));
    if (kind === "time" && !map.time) kind = "topic";
    paint();
  }

  function tools() {
    const lasso = h("button", { type: "button", "aria-pressed": "false", onclick: () => {
      plot.lassoing = !plot.lassoing;
      lasso.setAttribute("aria-pressed", String(plot.lassoing));
    } }, "Lasso");
    return h("div", { class: "tools", role: "group", "aria-label": "Map tools" }, lasso,
      h("button", { type: "button", "aria-label": "Zoom in", onclick: () => plot.zoom(1.5) }, "+"),
      h("button", { type: "button", "aria-label": "Zoom out", onclick: () => plot.zoom(1 / 1.5) }, "−"),
      h("button", { type: "button", onclick: () => plot.reset() }, "Whole"));
  }

  function paint() {
    const { colours, keys } = coloured(map, kind, theme());
    const own = map[kind];
    plot.paint(colours, off.size ? (point) => off.has(own[point]) : null);
    fill(legend, h("h2", {}, { topic: "Topics", source: "Sources", time: "Time" }[kind]), kind === "time" ? ramp() : h("ul", { class: "keyed" }, keys.map((each) =>
      h("li", {}, h("button", { type: "button", "aria-pressed": String(!off.has(each.place)), title: "Show or hide", onclick: () => {
        if (!off.delete(each.place)) off.add(each.place);
        paint();
      } }, svg("svg", { viewBox: "0 0 12 12", "aria-hidden": "true" }, svg("circle", { cx: 6, cy: 6, r: 5, fill: each.colour })), h("span", {}, each.name), h("span", {}, number(each.count)))))));
  }

  function ramp() {
    const steps = RAMPS[theme()];
    return [
      svg("svg", { viewBox: "0 0 100 8", class: "chart", role: "img", "aria-label": "Colours from early to late" }, steps.map((colour, place) => svg("rect", { x: place * 100 / steps.length, y: 0, width: 100 / steps.length, height: 8, fill: colour }))),
      facts([["From", moment(map.time.first * 1e6)], ["To", moment(map.time.last * 1e6)], ["Field", map.time.field]]),
    ];
  }

  async function rows(points) {
    return (await post(`${path}/rows`, { version: map.version, points }, signal)).rows;
  }

  async function read(points, draw) {
    const mine = wanted += 1;
    try {
      const found = await rows(points);
      if (mine === wanted) draw(found);
    } catch (error) {
      if (signal.aborted || mine !== wanted) return;
      if (error.status === 404) context.again(); // the collection has moved on
      else fill(reading, h("p", { class: "problem", role: "alert" }, prose(error.message)));
    }
  }

  function picked(point) {
    if (point === null) return;
    read([point], ([row]) => fill(reading,
      h("p", { class: "hint mono" }, row.id), h("p", { class: "text" }, short(row.document, 1200)),
      facts([["Topic", map.topics[map.topic[point]]], ...Object.entries(row.metadata).filter(([, value]) => value !== null).slice(0, 8).map(([field, value]) => [field, String(value)])]),
      h("p", {}, h("a", { href: `#/search?${new URLSearchParams({ q: short(row.document, 200), c: name })}` }, "Search for passages like it"))));
  }

  function chosen(points) {
    if (!points) { fill(reading, h("p", { class: "note" }, "Nothing is selected.")); return; }
    const topics = new Map();
    const area = write({ version: map.version, by: kind === "source" ? "source" : "topic", without: [...off], path: plot.outline });
    points.forEach((point) => topics.set(map.topic[point], (topics.get(map.topic[point]) ?? 0) + 1));
    read(points.slice(0, LISTED), (found) => fill(reading,
      h("div", { class: "head" }, h("h2", {}, `${count(points.length, "passage")} selected`), h("button", { type: "button", class: "quiet", onclick: () => plot.clear() }, "Clear")),
      points.length > MOST
        ? h("p", { class: "note" }, `To search in a selection, draw it around at most ${number(MOST)} passages.`)
        : h("p", {}, h("a", { href: `#/search?${new URLSearchParams({ c: name, area })}` }, "Search in these")),
      h("p", { class: "hint" }, [...topics].sort((a, b) => b[1] - a[1]).slice(0, 4).map(([topic, many]) => `${map.topics[topic]}: ${number(many)}`).join(" · ")),
      found.map((row, place) => h("div", { class: "passage" }, h("p", { class: "hint mono" }, row.id), h("p", { class: "text" }, short(row.document, 160)), h("button", { type: "button", class: "quiet", onclick: () => plot.pick(points[place]) }, "Read"))),
      points.length > found.length && h("p", { class: "hint" }, `and ${number(points.length - found.length)} more`)));
  }
}
