// An area of a map, as the address of the search view holds it: a version, hidden groups, and the corners of a path.

import { post } from "./api.js";

export const MOST = 10_000; // rows that a filter takes

/** Write an area for an address. */
export function write({ version, by, without, path }) {
  return [version, by, without.join(","), path.map((corner) => corner.join(",")).join(" ")].join(";");
}

/** Read an area from an address; null if there is none. */
export function read(text) {
  const [version, by, without = "", path = ""] = (text ?? "").split(";");
  const numbers = (list) => list.split(",").filter(Boolean).map(Number);
  const found = { version: Number(version), by, without: numbers(without), path: path.split(" ").map(numbers) };
  const whole = [found.version, ...found.without].every((each) => Number.isSafeInteger(each) && each >= 0);
  const corners = found.path.every((each) => each.length === 2 && each.every((axis) => Math.abs(axis) <= 2));
  return whole && found.version && ["topic", "source"].includes(by) && corners && found.path.length > 2 ? found : null;
}

/** Return the ids of the rows in an area of a collection's map. */
export async function idsIn(collection, area, signal) {
  return (await post(`/v1/collections/${encodeURIComponent(collection)}/map/ids`, area, signal)).ids;
}
