// Elements are made from text nodes and attributes only: no text becomes markup.

const PROPERTIES = new Set(["value", "checked", "disabled", "selected", "hidden", "open", "scrollTop", "indeterminate"]);
const SVG = "http://www.w3.org/2000/svg";

/** Make an element. Keys that begin with "on" are listeners; `class`, `aria-...` and others are attributes. */
export function h(tag, properties, ...children) {
  return filled(document.createElement(tag), properties, children);
}

/** Make an SVG element. */
export function svg(tag, properties, ...children) {
  return filled(document.createElementNS(SVG, tag), properties, children);
}

function filled(node, properties, children) {
  for (const [name, value] of Object.entries(properties ?? {})) {
    if (value === undefined || value === null || value === false && !PROPERTIES.has(name)) continue;
    if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else if (PROPERTIES.has(name)) node[name] = value;
    else node.setAttribute(name, value === true ? "" : String(value));
  }
  add(node, children);
  return node;
}

function add(node, children) {
  for (const child of children.flat(Infinity)) {
    if (child === undefined || child === null || child === false || child === "") continue;
    node.append(child instanceof Node ? child : document.createTextNode(String(child)));
  }
}

/** Replace what an element contains. */
export function fill(node, ...children) {
  node.replaceChildren();
  add(node, children);
  return node;
}

/** Make a link if an address is one that a browser may follow from here, else plain text. */
export function link(address, text = address) {
  let parsed;
  try { parsed = new URL(address); } catch { return h("span", {}, text); }
  if (!["https:", "http:"].includes(parsed.protocol)) return h("span", {}, text);
  return h("a", { href: parsed.href, target: "_blank", rel: "noopener noreferrer" }, text);
}

/** Make a table: `columns` are {name, number?, cell(row)}. */
export function table(caption, columns, rows, { empty = "Nothing yet.", key } = {}) {
  if (!rows.length) return h("p", { class: "empty" }, prose(empty));
  return h("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": caption },
    h("table", {},
      h("caption", { class: "hidden" }, caption),
      h("thead", {}, h("tr", {}, columns.map((each) => h("th", { scope: "col", class: each.number && "number" }, each.name || h("span", { class: "hidden" }, "More"))))),
      h("tbody", {}, rows.map((row) => h("tr", key ? { "data-key": key(row) } : {},
        columns.map((each, place) => h(place ? "td" : "th", {
          scope: place ? undefined : "row", class: [each.number && "number", each.class].filter(Boolean).join(" ") || undefined,
        }, each.cell(row))))))));
}

/** Make a definition list of names and values; values that are empty are left out. */
export function facts(pairs) {
  return h("dl", { class: "facts" }, pairs.filter(([, value]) => value !== "" && value !== undefined && value !== null)
    .map(([name, value]) => h("div", {}, h("dt", {}, name), h("dd", {}, value))));
}

/** Make text in which `commands` are set apart, as messages write them. */
export function prose(text) {
  return text.split(/`([^`\n]+)`/).map((part, place) => place % 2 ? h("code", {}, part) : part);
}

/** Make a small label of a state: ok, waiting, failed, or neutral. */
export function badge(text, kind = "") {
  return h("span", { class: `badge ${kind}` }, text);
}

/** Say something for a moment, to screen readers too. */
export function say(text) {
  const place = document.getElementById("said");
  place.textContent = text;
  place.classList.add("shown");
  clearTimeout(say.timer);
  say.timer = setTimeout(() => { place.classList.remove("shown"); place.textContent = ""; }, 4000);
}

/** Open the dialog; resolves with what `close` was called with, or null. `body(close)` returns its contents. */
export function ask(title, body) {
  const dialog = document.getElementById("dialog");
  if (dialog.open) dialog.close();
  return new Promise((resolve) => {
    let answer = null;
    const close = (value = null) => { answer = value; dialog.close(); };
    fill(dialog, h("h2", { id: "dialog-title" }, title), body(close));
    dialog.addEventListener("close", () => { fill(dialog); resolve(answer); }, { once: true });
    dialog.showModal();
  });
}

/** Ask before something that changes or stops something: the second step. */
export function confirm(title, explanation, verb) {
  return ask(title, (close) => [
    h("p", {}, prose(explanation)),
    h("div", { class: "actions" },
      h("button", { type: "button", onclick: () => close(false), autofocus: true }, "Leave it"),
      h("button", { type: "button", class: "danger", onclick: () => close(true) }, verb)),
  ]);
}

/** Copy a text; where the browser does not allow it, show it selected. */
export async function copy(text, what) {
  try {
    await navigator.clipboard.writeText(text);
    say(`${what} copied`);
  } catch {
    await ask(`Copy ${what}`, (close) => {
      const area = h("textarea", { readonly: true, rows: "8", "aria-label": what, value: text });
      setTimeout(() => area.select());
      return [area, h("div", { class: "actions" }, h("button", { type: "button", onclick: () => close() }, "Close"))];
    });
  }
}
