// Numbers, times and money as people read them.

const whole = new Intl.NumberFormat("en-US");
const moments = new Intl.DateTimeFormat(undefined, { dateStyle: "medium", timeStyle: "short" });
const UNITS = [["d", 86400], ["h", 3600], ["min", 60], ["s", 1]];

export const number = (value) => whole.format(value);

/** One of something, or several. */
export const count = (value, what) => `${number(value)} ${what}${value === 1 ? "" : "s"}`;

export function bytes(value) {
  for (const [unit, size] of [["GB", 1e9], ["MB", 1e6], ["kB", 1e3]]) {
    if (value >= size) return `${(value / size).toFixed(1)} ${unit}`;
  }
  return `${value} B`;
}

export const money = (value) => value && value < 0.01 ? `$${value.toFixed(6)}` : `$${value.toFixed(2)}`;

/** A span of seconds, in its largest unit. */
export function span(seconds) {
  for (const [unit, size] of UNITS) {
    if (seconds >= size) return `${Math.floor(seconds / size)} ${unit}`;
  }
  return "0 s";
}

/** How long ago a time was, or how far ahead it is; times are microseconds since 1970. */
export function ago(time, now = Date.now()) {
  if (!time) return "never";
  const seconds = (now - time / 1000) / 1000;
  if (Math.abs(seconds) < 1) return "now";
  return seconds < 0 ? `in ${span(-seconds)}` : `${span(seconds)} ago`;
}

export const moment = (time) => time ? moments.format(new Date(time / 1000)) : "never";

/** A text on one line, cut where it is long. */
export function short(text, most = 120) {
  const line = text.replace(/\s+/g, " ").trim();
  return line.length > most ? `${line.slice(0, most - 1)}…` : line;
}
