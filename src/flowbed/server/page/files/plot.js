// Points in a plane on a canvas: any number up to some hundred thousand, drawn pixel by pixel, at the rate of the screen.
// This module imports nothing: a map that is written to a file contains it.

const CLOSE = 9; // px around a point in which a click means it
const PRESSED = 4; // px that a pointer may move in a click
const STEP = 40; // px that an arrow key moves the plane
const ZOOM = 1.3; // of a key or a button
const DEEPEST = 4000;
const CORNERS = 64; // of a lasso: the page's address holds them
const FINE = 1e4; // steps of the plane's axes in which corners are written
const EDGE = 0.04; // of the box, around all points

// Ten colours that people with any colour vision tell apart, for light and dark grounds; the last is for all others.
export const PALETTES = {
  light: ["#1f6fb4", "#d9640b", "#2a8f4d", "#b5267f", "#7a5bc2", "#8a6d00", "#0f8a94", "#c23b3b", "#5d7a1f", "#6b7681"],
  dark: ["#6db3f2", "#ff9d57", "#6fd08c", "#f27cc3", "#b39df0", "#dcbc3f", "#53cfd8", "#ff8a84", "#b3d16a", "#98a4b0"],
};
// From early to late.
export const RAMPS = {
  light: ["#c9d7ef", "#7fa6d9", "#3f78bd", "#1d4f93", "#0b2a5b"],
  dark: ["#24415f", "#2f6a9a", "#4a9ad0", "#8cc8ef", "#e2f4ff"],
};

/** Read a map as the server writes it. */
export function readMap(buffer) {
  const text = new TextDecoder();
  if (text.decode(new Uint8Array(buffer, 0, 6)) !== "FBMAP1") throw new Error("this is no map");
  const length = new DataView(buffer).getUint32(8, true);
  const header = JSON.parse(text.decode(new Uint8Array(buffer, 12, length)));
  let place = 12 + length;
  const column = (type) => {
    const found = new type(buffer, place, header.points);
    place += header.points * type.BYTES_PER_ELEMENT;
    return found;
  };
  return { ...header, xs: column(Uint16Array), ys: column(Uint16Array), at: column(Uint16Array), topic: column(Uint8Array), source: column(Uint8Array) };
}

/** Return the colours of points by `kind` (topic, source or time), and the names of the colours. */
export function coloured(map, kind, theme) {
  const colours = new Uint32Array(map.points);
  if (kind === "time") {
    const ramp = Array.from({ length: 256 }, (_, place) => packed(between(RAMPS[theme], place / 255)));
    const none = packed(rgb(PALETTES[theme].at(-1)));
    for (let point = 0; point < map.points; point += 1) colours[point] = map.at[point] ? ramp[map.at[point] >> 8] : none;
    return { colours, keys: [] };
  }
  const palette = PALETTES[theme];
  const names = kind === "topic" ? map.topics : map.sources;
  const own = map[kind];
  const counts = new Array(names.length).fill(0);
  const each = names.map((_, place) => packed(rgb(palette[Math.min(place, palette.length - 1)])));
  for (let point = 0; point < map.points; point += 1) {
    colours[point] = each[own[point]];
    counts[own[point]] += 1;
  }
  return { colours, keys: names.map((name, place) => ({ name, place, colour: palette[Math.min(place, palette.length - 1)], count: counts[place] })) };
}

const rgb = (colour) => [1, 3, 5].map((place) => parseInt(colour.slice(place, place + 2), 16));
const packed = ([red, green, blue]) => (0xff000000 | blue << 16 | green << 8 | red) >>> 0;

function between(ramp, share) {
  const place = share * (ramp.length - 1);
  const low = Math.min(Math.floor(place), ramp.length - 2);
  const [from, to] = [rgb(ramp[low]), rgb(ramp[low + 1])];
  return from.map((value, channel) => Math.round(value + (to[channel] - value) * (place - low)));
}

/** Draws points into a box; `picked(point)` is called for a click or Enter, `chosen(points or null)` for a lasso. */
export class Plot {
  constructor(box, map, { picked, chosen, label }) {
    this.box = box;
    this.map = map;
    this.picked = picked;
    this.chosen = chosen;
    this.hidden = new Uint8Array(map.points);
    this.selected = null;
    this.lassoing = false;
    this.frames = 0; // drawn, for who measures
    this.canvas = document.createElement("canvas");
    this.canvas.tabIndex = 0;
    this.canvas.setAttribute("role", "application");
    this.canvas.setAttribute("aria-label", label);
    this.top = document.createElement("canvas");
    this.top.className = "top";
    this.top.setAttribute("aria-hidden", "true");
    box.prepend(this.canvas, this.top);
    this.pointers = new Map();
    this.path = null;
    this.stopping = new AbortController();
    const on = (target, name, work, more) => target.addEventListener(name, work, { signal: this.stopping.signal, ...more });
    on(this.canvas, "pointerdown", (event) => this.pressed(event));
    on(this.canvas, "pointermove", (event) => this.moved(event));
    for (const name of ["pointerup", "pointercancel"]) on(this.canvas, name, (event) => this.released(event));
    on(this.canvas, "wheel", (event) => { event.preventDefault(); this.zoom(Math.exp(-event.deltaY * (event.deltaMode ? 0.05 : 0.0015)), event.offsetX, event.offsetY); }, { passive: false });
    on(this.canvas, "keydown", (event) => this.key(event));
    for (const name of ["focus", "blur"]) on(this.canvas, name, () => this.drawTop());
    this.watch = new ResizeObserver(() => this.resize());
    this.watch.observe(box);
    this.reset();
  }

  stop() {
    this.stopping.abort();
    this.watch.disconnect();
    cancelAnimationFrame(this.asked);
  }

  /** Colour the points; hidden groups are given as a function of a point. */
  paint(colours, isHidden = null) {
    this.colours = colours;
    for (let point = 0; point < this.map.points; point += 1) this.hidden[point] = isHidden?.(point) ? 1 : 0;
    this.ask();
  }

  reset() {
    this.scale = 1;
    this.x = 0.5;
    this.y = 0.5;
    this.ask();
  }

  resize() {
    const ratio = Math.min(devicePixelRatio || 1, 2);
    this.ratio = ratio;
    this.wide = this.box.clientWidth;
    this.high = this.box.clientHeight;
    for (const each of [this.canvas, this.top]) {
      each.width = Math.max(1, Math.round(this.wide * ratio));
      each.height = Math.max(1, Math.round(this.high * ratio));
    }
    this.context = this.canvas.getContext("2d", { alpha: true });
    this.image = this.context.createImageData(this.canvas.width, this.canvas.height);
    this.pixels = new Uint32Array(this.image.data.buffer);
    this.draw();
  }

  /** Return pixels of the box for one unit of the plane. */
  unit() { return Math.min(this.wide, this.high) * (1 - 2 * EDGE) * this.scale; }

  ask() { this.asked ||= requestAnimationFrame(() => { this.asked = 0; this.draw(); }); }

  draw() {
    if (!this.image || !this.colours) return;
    const { width, height } = this.canvas;
    const { xs, ys, points } = this.map;
    const { pixels, colours, hidden, selected } = this;
    const unit = this.unit() * this.ratio / 65535;
    const left = width / 2 - this.x * this.unit() * this.ratio;
    const upper = height / 2 + this.y * this.unit() * this.ratio;
    const size = Math.max(1, Math.round(this.size() * this.ratio));
    const offsets = disc(size, width);
    const reach = size >> 1;
    pixels.fill(0);
    // What is not selected lies below, and is pale.
    for (let pass = selected ? 0 : 1; pass < 2; pass += 1) {
      for (let point = 0; point < points; point += 1) {
        if (hidden[point] || selected && selected[point] !== pass) continue;
        const x = left + xs[point] * unit | 0;
        const y = upper - ys[point] * unit | 0;
        if (x < reach || y < reach || x >= width - reach - 1 || y >= height - reach - 1) continue;
        const colour = pass ? colours[point] : colours[point] & 0x00ffffff | 0x30000000;
        const place = y * width + x;
        for (let each = 0; each < offsets.length; each += 1) pixels[place + offsets[each]] = colour;
      }
    }
    this.context.putImageData(this.image, 0, 0);
    this.frames += 1;
    this.drawTop();
  }

  /** Return the width of a point: smaller where there are many, larger close by. */
  size() {
    const many = this.map.points > 50000 ? 2 : this.map.points > 5000 ? 3 : 5;
    return Math.min(10, many * (1 + Math.log2(this.scale) / 4));
  }

  drawTop() {
    const context = this.top.getContext("2d");
    const { ratio, wide, high } = this;
    context.setTransform(ratio, 0, 0, ratio, 0, 0);
    context.clearRect(0, 0, wide, high);
    context.strokeStyle = context.fillStyle = getComputedStyle(this.box).color;
    if (this.path) {
      context.beginPath();
      this.path.forEach(([x, y], place) => place ? context.lineTo(x, y) : context.moveTo(x, y));
      context.closePath();
      context.stroke();
      context.globalAlpha = 0.08;
      context.fill();
      context.globalAlpha = 1;
    }
    if (document.activeElement === this.canvas && this.canvas.matches(":focus-visible")) {
      context.beginPath();
      for (const [x, y, across, along] of [[wide / 2 - 9, high / 2, 18, 0], [wide / 2, high / 2 - 9, 0, 18]]) {
        context.moveTo(x, y);
        context.lineTo(x + across, y + along);
      }
      context.stroke();
    }
    if (this.marked !== undefined && this.marked !== null) {
      const [x, y] = this.position(this.marked);
      context.lineWidth = 2;
      context.beginPath();
      context.arc(x, y, this.size() / 2 + 5, 0, 2 * Math.PI);
      context.stroke();
      context.lineWidth = 1;
    }
  }

  /** Return where a point is in the box. */
  position(point) {
    const unit = this.unit();
    return [this.wide / 2 + (this.map.xs[point] / 65535 - this.x) * unit, this.high / 2 - (this.map.ys[point] / 65535 - this.y) * unit];
  }

  /** Return the point nearest to a place, within a distance; null if there is none. */
  nearest(x, y, within = CLOSE) {
    let found = null, best = within * within;
    for (let point = 0; point < this.map.points; point += 1) {
      if (this.hidden[point]) continue;
      const [px, py] = this.position(point);
      const far = (px - x) ** 2 + (py - y) ** 2;
      if (far < best) { best = far; found = point; }
    }
    return found;
  }

  mark(point) {
    this.marked = point;
    this.drawTop();
  }

  pan(dx, dy) {
    const unit = this.unit();
    this.x = clamp(this.x - dx / unit, -0.5, 1.5);
    this.y = clamp(this.y + dy / unit, -0.5, 1.5);
    this.ask();
  }

  /** Zoom by a factor around a place of the box, by default its middle. */
  zoom(factor, x = this.wide / 2, y = this.high / 2) {
    const scale = clamp(this.scale * factor, 0.5, DEEPEST);
    const before = this.unit();
    this.scale = scale;
    const after = this.unit();
    this.x += (x - this.wide / 2) * (1 / before - 1 / after);
    this.y -= (y - this.high / 2) * (1 / before - 1 / after);
    this.ask();
  }

  pressed(event) {
    this.canvas.setPointerCapture(event.pointerId);
    this.pointers.set(event.pointerId, [event.offsetX, event.offsetY]);
    this.from = [event.offsetX, event.offsetY];
    this.still = this.pointers.size === 1;
    if (this.lassoing && this.still) this.path = [this.from];
  }

  moved(event) {
    const before = this.pointers.get(event.pointerId);
    if (!before) {
      this.canvas.style.cursor = this.lassoing ? "crosshair" : this.nearest(event.offsetX, event.offsetY) === null ? "grab" : "pointer";
      return;
    }
    const now = [event.offsetX, event.offsetY];
    if (Math.hypot(now[0] - this.from[0], now[1] - this.from[1]) > PRESSED) this.still = false;
    this.pointers.set(event.pointerId, now);
    if (this.path) {
      this.path.push(now);
      this.drawTop();
    } else if (this.pointers.size === 1) {
      this.pan(now[0] - before[0], now[1] - before[1]);
    } else {
      const [other] = [...this.pointers].filter(([id]) => id !== event.pointerId).map(([, place]) => place);
      const far = (place) => Math.hypot(place[0] - other[0], place[1] - other[1]);
      if (far(before) > 0) this.zoom(far(now) / far(before), (now[0] + other[0]) / 2, (now[1] + other[1]) / 2);
    }
  }

  released(event) {
    if (!this.pointers.delete(event.pointerId)) return;
    const path = this.path;
    this.path = null;
    if (event.type === "pointercancel") { this.drawTop(); return; }
    if (path && path.length > 2) this.select(path);
    else if (this.still) this.pick(this.nearest(event.offsetX, event.offsetY));
  }

  pick(point) {
    this.mark(point);
    this.picked(point);
  }

  /** Return the place in the plane, [x, y] from 0 to 1, of one in the box. */
  plane([x, y]) {
    const unit = this.unit();
    return [this.x + (x - this.wide / 2) / unit, this.y - (y - this.high / 2) / unit].map((each) => Math.round(each * FINE) / FINE);
  }

  /** Select the points inside a path of the box. */
  select(path) {
    const share = Math.max(1, path.length / CORNERS);
    this.outline = path.filter((_, place) => Math.floor(place / share) !== Math.floor((place - 1) / share)).map((each) => this.plane(each));
    const [xs, ys] = [0, 1].map((axis) => this.outline.map((corner) => corner[axis]));
    const box = [Math.min(...xs), Math.max(...xs), Math.min(...ys), Math.max(...ys)];
    const selected = new Uint8Array(this.map.points);
    const found = [];
    for (let point = 0; point < this.map.points; point += 1) {
      if (this.hidden[point]) continue;
      const [x, y] = [this.map.xs[point] / 65535, this.map.ys[point] / 65535];
      if (x >= box[0] && x <= box[1] && y >= box[2] && y <= box[3] && inside(x, y, this.outline)) {
        selected[point] = 1;
        found.push(point);
      }
    }
    this.selected = found.length ? selected : null;
    this.ask();
    this.chosen(found.length ? found : null);
  }

  clear() {
    this.selected = null;
    this.ask();
    this.chosen(null);
  }

  key(event) {
    const moves = { ArrowLeft: [STEP, 0], ArrowRight: [-STEP, 0], ArrowUp: [0, STEP], ArrowDown: [0, -STEP] };
    if (event.key in moves) this.pan(...moves[event.key]);
    else if (event.key === "+" || event.key === "=") this.zoom(ZOOM);
    else if (event.key === "-") this.zoom(1 / ZOOM);
    else if (event.key === "0") this.reset();
    else if (event.key === "Enter") this.pick(this.nearest(this.wide / 2, this.high / 2, Infinity));
    else if (event.key === "Escape" && this.selected) this.clear();
    else return;
    event.preventDefault();
  }
}

const clamp = (value, low, high) => Math.min(high, Math.max(low, value));

/** Return the places of a disc's pixels beside its middle. */
function disc(size, width) {
  const found = [];
  const middle = (size - 1) / 2;
  for (let y = 0; y < size; y += 1) {
    for (let x = 0; x < size; x += 1) {
      if (size < 3 || (x - middle) ** 2 + (y - middle) ** 2 <= (size / 2) ** 2) found.push((y - (size >> 1)) * width + x - (size >> 1));
    }
  }
  return Int32Array.from(found);
}

/** Tell whether a place is inside a path. */
function inside(x, y, path) {
  let found = false;
  for (let each = 0, last = path.length - 1; each < path.length; last = each, each += 1) {
    const [[ax, ay], [bx, by]] = [path[each], path[last]];
    if (ay > y !== by > y && x < (bx - ax) * (y - ay) / (by - ay) + ax) found = !found;
  }
  return found;
}
