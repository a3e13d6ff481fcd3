// The frame of the page: which view is shown, the key, the theme, and whether the server answers.

import { events, Failure, get, hasKey, isGone, useKey } from "./api.js";
import { ask, fill, h, prose } from "./dom.js";
import * as collections from "./views/collections.js";
import * as doctor from "./views/doctor.js";
import * as flow from "./views/flow.js";
import * as keys from "./views/keys.js";
import * as letters from "./views/letters.js";
import * as map from "./views/map.js";
import * as search from "./views/search.js";
import * as spend from "./views/spend.js";
import * as work from "./views/work.js";

// In the order of the menu. `admin` views need the admin scope.
const VIEWS = {
  search: { name: "Search", show: search.show },
  collections: { name: "Collections", show: collections.show },
  map: { name: "Map", show: map.show },
  flow: { name: "Flow", show: flow.show, admin: true },
  work: { name: "Jobs and batches", show: work.show, admin: true },
  letters: { name: "Dead letters", show: letters.show, admin: true },
  doctor: { name: "Doctor", show: doctor.show, admin: true },
  spend: { name: "Spend", show: spend.show, admin: true },
  keys: { name: "Keys and quotas", show: keys.show, admin: true },
};
const SLOW = 200, VERY_SLOW = 3000; // ms until a view says that it is loading, and that this takes long
const THEMES = ["system", "light", "dark"];

const main = document.getElementById("main");
const nav = document.getElementById("nav");
const menu = document.getElementById("menu");
const banner = document.getElementById("banner");
let session = null;
let current = null; // the view that is shown: {controller, end, failed, hash}
let asking = null;

function parsed() {
  const [path, query = ""] = location.hash.replace(/^#\/?/, "").split("?");
  const [name, ...rest] = path.split("/").map(decoded);
  return { name: Object.hasOwn(VIEWS, name) ? name : "search", rest, params: new URLSearchParams(query) };
}

/** Decode a part of an address; one that was typed with a bare "%" is taken as it is. */
function decoded(part) {
  try { return decodeURIComponent(part); } catch { return part; }
}

/** Write the state of a view into the address, without showing it anew. */
export function remember(name, rest, params) {
  const query = params.toString();
  const hash = `#/${[name, ...rest].map(encodeURIComponent).join("/")}${query ? `?${query}` : ""}`;
  history.replaceState(null, "", hash);
  if (current) current.hash = hash;
}

async function show({ focus = true } = {}) {
  const { name, rest, params } = parsed();
  current?.controller.abort();
  current?.end?.();
  const controller = new AbortController();
  const view = current = { controller, end: null, failed: false, hash: location.hash };
  drawMenu(name);
  menu.setAttribute("aria-expanded", "false");
  document.title = `${VIEWS[name].name} · Flowbed`;
  const root = h("div", { class: `view view-${name}`, "aria-busy": "true" });
  const timers = waiting(root, controller);
  try {
    session ??= await get("/v1/session", controller.signal);
    drawMenu(name);
    if (VIEWS[name].admin && !session.admin) throw new Failure("This view needs a key with the admin scope.", 403);
    const end = await VIEWS[name].show(root, { rest, params, session, signal: controller.signal, again: (how) => { if (how?.anew) session = null; return show({ focus: false }); } });
    if (view !== current) { end?.(); return; }
    view.end = end;
  } catch (error) {
    if (controller.signal.aborted) return;
    view.failed = true;
    fill(root, failed(name, error));
    if (!(error instanceof Failure)) console.error(error);
  } finally {
    timers.forEach(clearTimeout);
  }
  root.removeAttribute("aria-busy");
  fill(main, root);
  if (focus) {
    const wanted = root.querySelector("[data-first]") ?? root.querySelector("h1");
    wanted?.focus({ preventScroll: true });
    scrollTo(0, 0);
  }
}

function waiting(root, controller) {
  const line = h("p", { class: "empty", role: "status" }, "Loading…");
  return [
    setTimeout(() => { if (!controller.signal.aborted) fill(main, line); }, SLOW),
    setTimeout(() => { if (!controller.signal.aborted) line.textContent = "Still waiting for the server…"; }, VERY_SLOW),
  ];
}

function failed(name, error) {
  return [
    h("h1", { tabindex: "-1" }, VIEWS[name].name),
    h("div", { class: "problem", role: "alert" },
      h("p", {}, prose(error.message)),
      error.status === 401
        ? h("button", { type: "button", onclick: askKey }, "Enter a key")
        : h("button", { type: "button", onclick: () => show() }, "Try again")),
  ];
}

function drawMenu(name) {
  const groups = Object.entries(VIEWS).filter(([, view]) => !view.admin || session?.admin);
  fill(nav,
    h("ul", {}, groups.map(([each, view]) =>
      h("li", {}, h("a", { href: `#/${each}`, "aria-current": each === name ? "page" : undefined }, view.name)))),
    h("div", { class: "foot" },
      session?.keys_required && h("p", {}, `Key “${session.name}”`, session.admin ? ", admin" : ""),
      h("label", {}, "Theme ",
        h("select", { onchange: (event) => paint(event.target.value) },
          THEMES.map((each) => h("option", { value: each, selected: each === document.documentElement.dataset.theme }, each)))),
      session && h("p", {}, `Flowbed ${session.version}`)));
}

function paint(theme) {
  document.documentElement.dataset.theme = theme ?? kept() ?? "system";
  events.dispatchEvent(new Event("theme"));
  if (theme === undefined) return;
  try { localStorage.setItem("theme", theme); } catch { /* the browser keeps nothing: a reload forgets it */ }
}

/** Return the theme that was chosen before, if this browser lets pages keep anything. */
function kept() {
  try { return localStorage.getItem("theme"); } catch { return null; }
}

async function askKey() {
  asking ??= ask("An API key is needed", (close) => {
    const field = h("input", { type: "password", id: "key", autocomplete: "off", spellcheck: "false", required: true });
    return h("form", { onsubmit: (event) => { event.preventDefault(); close(field.value); } },
      h("p", {}, hasKey() ? "That key was refused. " : "", "The key stays in the memory of this page; a reload forgets it."),
      h("label", { for: "key" }, "Key"), field,
      h("p", { class: "hint" }, prose("`flowbed keys create NAME --admin` makes one.")),
      h("div", { class: "actions" }, h("button", { class: "primary" }, "Use it")));
  });
  const entered = await asking;
  asking = null;
  if (!entered) return;
  useKey(entered);
  session = null;
  await show();
}

events.addEventListener("key", askKey);
events.addEventListener("gone", () => fill(banner, h("p", { class: "gone" }, "The server does not answer. This page tries again by itself.")));
events.addEventListener("back", () => {
  fill(banner);
  if (current?.failed) show({ focus: false });
});
window.addEventListener("hashchange", () => { if (location.hash !== current?.hash) show(); });
menu.addEventListener("click", () => menu.setAttribute("aria-expanded", String(menu.getAttribute("aria-expanded") !== "true")));
// "/" goes to the search box from anywhere, as on many sites.
document.addEventListener("keydown", (event) => {
  if (event.key !== "/" || event.ctrlKey || event.metaKey || event.altKey || event.target.matches("input, textarea, select")) return;
  event.preventDefault();
  const box = document.getElementById("query");
  if (box) box.focus(); else location.hash = "#/search";
});
document.querySelector(".skip").addEventListener("click", (event) => { event.preventDefault(); main.focus(); });
paint();
if (!isGone()) show();
