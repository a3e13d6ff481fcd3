// Small charts of a few dozen values.

import { h, svg } from "./dom.js";
import { number } from "./format.js";

const WIDEST = 900, NARROWEST = 330, FRAME = 70, HIGH = 200, LEFT = 64, BOTTOM = 22, TOP = 10;

/** Draw two bars for each row {name, ...}, named by `series`; the table below a chart has the same figures. */
export function bars(title, rows, series) {
  const most = nice(Math.max(1, ...rows.flatMap((row) => series.map((name) => row[name]))));
  // Drawn as wide as it is shown, so that its letters keep their size.
  const wide = Math.max(NARROWEST, Math.min(WIDEST, innerWidth - FRAME));
  const step = (wide - LEFT) / rows.length;
  const width = Math.min(22, step * 0.36);
  const y = (value) => TOP + (HIGH - TOP - BOTTOM) * (1 - value / most);
  const every = Math.ceil(rows.length / (wide / 90));
  return h("figure", {},
    h("figcaption", { class: "legend" }, series.map((name, place) => h("span", {}, h("i", { class: place ? "b" : "a" }), name))),
    svg("svg", { class: "chart", viewBox: `0 0 ${wide} ${HIGH}`, role: "img", "aria-label": title },
      [0, 0.5, 1].map((share) => [
        svg("line", { class: "line", x1: LEFT, x2: wide, y1: y(most * share), y2: y(most * share) }),
        svg("text", { x: LEFT - 8, y: y(most * share) + 4, "text-anchor": "end" }, compact(most * share))]),
      rows.map((row, place) => [
        series.map((name, which) => svg("rect", {
          class: which ? "b" : "a", x: LEFT + step * place + step / 2 - width + which * width, y: y(row[name]), width: Math.max(1, width - 1), height: Math.max(0, y(0) - y(row[name])),
        }, svg("title", {}, `${row.name}: ${number(row[name])} ${name}`))),
        place % every === 0 && svg("text", { x: LEFT + step * (place + 0.5), y: HIGH - 6, "text-anchor": "middle" }, row.name.slice(5))])));
}

const compact = (value) => new Intl.NumberFormat("en-US", { notation: "compact", maximumFractionDigits: 1 }).format(value);

/** The next round number. */
function nice(value) {
  const size = 10 ** Math.floor(Math.log10(value));
  return [1, 2, 2.5, 5, 10].map((each) => each * size).find((each) => each >= value);
}
