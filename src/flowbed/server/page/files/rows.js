// A list of any number of rows, of which only those in sight are in the page.

import { events, post } from "./api.js";
import { ask, facts, fill, h } from "./dom.js";
import { number, short } from "./format.js";

const HEIGHT = 52; // px of a row, as in the style sheet
const PAGE = 100; // rows asked for at a time
const KEPT = 60; // pages kept
// Browsers draw boxes of up to some 30 million pixels: a longer list is squeezed, and its rows still follow each other.
const TALLEST = 8_000_000;

/** Return an element that shows rows in the order of their ids; `stop` ends it. */
export function rowBrowser(path, signal) {
  const list = h("ol", {});
  const room = h("div", {}); // as high as all rows
  const box = h("div", { class: "browser", tabindex: "0", role: "region", "aria-label": "Rows in the order of their ids", "aria-busy": "true" }, room, list);
  const pages = new Map();
  let total = null;
  let drawn = "";

  function page(index) {
    if (!pages.has(index)) {
      const reading = post(`${path}/rows`, { offset: index * PAGE, limit: PAGE }, signal);
      pages.set(index, null);
      reading.then((found) => {
        pages.set(index, found.rows);
        if (pages.size > KEPT) pages.delete(pages.keys().next().value);
        if (total !== found.total) {
          total = found.total;
          room.style.height = `${Math.min(total * HEIGHT, TALLEST)}px`;
          box.removeAttribute("aria-busy");
        }
        drawn = "";
        draw();
      }, (error) => {
        pages.delete(index);
        if (!signal.aborted && total === null) fill(box, h("p", { class: "problem", role: "alert" }, error.message));
      });
    }
    return pages.get(index);
  }

  function draw() {
    if (total === null) { page(0); return; }
    if (total === 0) { fill(box, h("p", { class: "empty" }, "No rows.")); return; }
    const tall = total * HEIGHT;
    const most = Math.max(1, box.scrollHeight - box.clientHeight);
    const top = tall > TALLEST ? box.scrollTop / most * (tall - box.clientHeight) : box.scrollTop;
    const first = Math.max(0, Math.floor(top / HEIGHT) - 4);
    const last = Math.min(total, first + Math.ceil(box.clientHeight / HEIGHT) + 10);
    const now = `${first} ${last}`;
    if (now === drawn) return;
    drawn = now;
    list.style.transform = `translateY(${box.scrollTop + first * HEIGHT - top}px)`;
    fill(list, Array.from({ length: last - first }, (_, offset) => {
      const place = first + offset;
      const row = page(Math.floor(place / PAGE))?.[place % PAGE];
      return h("li", { "aria-setsize": total, "aria-posinset": place + 1 },
        h("span", { class: "mono" }, row ? row.id : `row ${number(place + 1)}`),
        h("span", {}, row ? short(row.document, 200) : "…"),
        row && h("button", { type: "button", class: "quiet", "aria-label": `Read ${row.id}`, onclick: () => read(row) }, "Read"));
    }));
  }

  const watch = new ResizeObserver(() => { drawn = ""; draw(); });
  watch.observe(box);
  let asked = 0;
  box.addEventListener("scroll", () => { asked ||= requestAnimationFrame(() => { asked = 0; draw(); }); });
  // Rows that were asked for while the server was away are asked for again.
  events.addEventListener("back", () => {
    if (total === null) fill(box, room, list);
    drawn = "";
    draw();
  }, { signal });
  box.stop = () => watch.disconnect();
  return box;
}

/** Show a row whole. */
export function read(row) {
  return ask(row.id, (close) => [
    h("p", { class: "text" }, row.document),
    facts(Object.entries(row.metadata).map(([name, value]) => [name, String(value)])),
    h("div", { class: "actions" }, h("button", { type: "button", onclick: () => close() }, "Close")),
  ]);
}
