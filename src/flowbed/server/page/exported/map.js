// The rest of a map in a file, behind plot.js.
const data = JSON.parse(document.getElementById("data").textContent);
const bytes = Uint8Array.from(atob(data.map), (letter) => letter.charCodeAt(0));
const map = readMap(bytes.buffer);
const legend = document.getElementById("legend"), read = document.getElementById("read");
const make = (name, text = "", properties = {}) => Object.assign(document.createElement(name), { textContent: text }, properties);
const dark = matchMedia("(prefers-color-scheme: dark)");
const off = new Set();
let kind = "topic";

function show(points) {
  const some = points.slice(0, 50);
  read.replaceChildren(make("h2", points.length === 1 ? "Passage" : `${points.length.toLocaleString("en-US")} passages`));
  for (const point of some) read.append(make("p", data.rows[point][0], { className: "id" }), make("p", data.rows[point][1]));
  if (points.length > some.length) read.append(make("p", `and ${(points.length - some.length).toLocaleString("en-US")} more`, { className: "id" }));
}

const plot = new Plot(document.getElementById("canvas"), map, {
  label: "Map. Arrow keys move, plus and minus zoom, Enter reads the passage in the middle.",
  picked: (point) => { if (point !== null) show([point]); },
  chosen: (points) => points ? show(points) : hint(),
});

function hint() {
  read.replaceChildren(make("p", "Click a point to read the beginning of its text. Hold Shift to draw a line around some.", { className: "note" }));
}

function paint() {
  const { colours, keys } = coloured(map, kind, dark.matches ? "dark" : "light");
  plot.paint(colours, off.size ? (point) => off.has(map[kind][point]) : null);
  const choice = make("select", "", { ariaLabel: "Coloured by", onchange: () => { kind = choice.value; off.clear(); paint(); } });
  for (const each of ["topic", "source", ...map.time ? ["time"] : []]) choice.append(make("option", `by ${each}`, { value: each, selected: each === kind }));
  const list = make("ul");
  for (const each of keys) {
    const button = make("button", "", { type: "button", ariaPressed: String(!off.has(each.place)), onclick: () => { if (!off.delete(each.place)) off.add(each.place); paint(); } });
    const mark = document.createElementNS("http://www.w3.org/2000/svg", "svg");
    const circle = document.createElementNS("http://www.w3.org/2000/svg", "circle");
    for (const [name, value] of [["cx", 6], ["cy", 6], ["r", 5], ["fill", each.colour]]) circle.setAttribute(name, value);
    mark.setAttribute("viewBox", "0 0 12 12");
    mark.append(circle);
    button.append(mark, make("span", each.name), make("span", each.count.toLocaleString("en-US")));
    const item = make("li");
    item.append(button);
    list.append(item);
  }
  legend.replaceChildren(choice, list);
  if (kind === "time") legend.append(make("p", `${new Date(map.time.first * 1000).toLocaleDateString()} to ${new Date(map.time.last * 1000).toLocaleDateString()}, dark to light or light to dark`, { className: "id" }));
}

for (const name of ["keydown", "keyup"]) addEventListener(name, (event) => { if (event.key === "Shift") plot.lassoing = name === "keydown"; });
dark.addEventListener("change", paint);
hint();
paint();
