// Conditions that people choose, as the filters that searches take.

import { parse } from "./exact.js";

export const OPERATORS = {
  $eq: "is", $ne: "is not", $gt: "is above", $gte: "is at least", $lt: "is below", $lte: "is at most", $contains: "contains",
};
// The condition on the text itself.
export const TEXT = "$document";

/** Return the filter of conditions [field, operator, value], null without any. */
export function whereOf(conditions) {
  const parts = conditions.map(([field, operator, value]) => {
    if (field === TEXT) return { $contains: String(value) };
    return operator === "$eq" ? { [field]: value } : { [field]: { [operator]: value } };
  });
  return parts.length > 1 ? { $and: parts } : parts[0] ?? null;
}

/** Read a value as a person typed it: a number or a truth value where the field has those. */
export function valueOf(text, types) {
  const trimmed = text.trim();
  if (types.includes("number") && trimmed !== "" && Number.isFinite(Number(trimmed))) {
    // JSON keeps all digits; 007, .5 and +5 are numbers that JSON has not, or texts where the field has texts too.
    try { return parse(trimmed); } catch { return types.includes("text") ? text : Number(trimmed); }
  }
  if (types.some((type) => type === "boolean") && ["true", "false"].includes(trimmed)) return trimmed === "true";
  return text;
}

/** Read conditions from the address of the page; what is none is left out. */
export function read(text) {
  try {
    return parse(text ?? "[]").filter((each) => Array.isArray(each) && each.length === 3 && typeof each[0] === "string" && each[1] in OPERATORS && ["string", "number", "bigint", "boolean"].includes(typeof each[2]));
  } catch {
    return [];
  }
}
