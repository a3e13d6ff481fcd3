// Words of a question, and texts in which they are marked.

import { h } from "./dom.js";

// Words that say nothing about what is asked for.
const COMMON = new Set("a an and are as at be by can do does for from how i in is it not of on or our that the this to was we what when where which who why will with you your".split(" "));

// Endings of English words; what is left has to keep the word apart from others.
const ENDING = /(?:ings?|ed|es|s|d)$/;

// Scripts without spaces between words, and the one whose single letters are endings and particles.
const JOINED = /[\p{scx=Han}\p{scx=Hira}\p{scx=Kana}\p{sc=Thai}\p{sc=Laoo}\p{sc=Khmr}\p{sc=Mymr}]/u;
const PARTICLE = /^\p{sc=Hira}$/u;
const segmenter = Intl.Segmenter && new Intl.Segmenter(undefined, { granularity: "word" });

/** Return the beginnings of the words of a question that are worth marking, in lower case. */
export function wordsIn(query) {
  const words = (query.toLowerCase().match(/[\p{L}\p{M}\p{N}]+/gu) ?? []).flatMap(cut);
  const telling = words.filter((each) => JOINED.test(each) ? !PARTICLE.test(each) : (each.length > 1 || /\p{N}/u.test(each)) && !COMMON.has(each));
  return [...new Set((telling.length ? telling : words).map((each) => {
    const stem = each.replace(ENDING, "");
    return stem.length > 2 ? stem : each;
  }))];
}

function cut(word) {
  return segmenter && JOINED.test(word) ? [...segmenter.segment(word)].map(({ segment }) => segment) : [word];
}

/** Return a text as nodes, with its passages marked: those of the server (in code points), else words at their beginnings. */
export function highlighted(text, words, spans) {
  return spans?.length ? marked(Array.from(text), spans.map(({ start, end }) => [start, end])) : byWords(text, words);
}

function marked(points, spans) {
  const found = [];
  let place = 0;
  for (const [start, end] of spans) {
    if (start < place) continue; // one word can be of two terms
    found.push(points.slice(place, start).join(""), h("mark", {}, points.slice(start, end).join("")));
    place = end;
  }
  found.push(points.slice(place).join(""));
  return found;
}

function byWords(text, words) {
  if (!words.length) return [text];
  // Words are of letters, marks and digits only: none has a meaning in a pattern.
  const [joined, spaced] = [words.filter((each) => JOINED.test(each)), words.filter((each) => !JOINED.test(each))];
  const pattern = new RegExp([
    ...joined.toSorted((a, b) => b.length - a.length),
    spaced.length && `(?<![\\p{L}\\p{N}])(?:${spaced.join("|")})[\\p{L}\\p{N}]{0,4}(?![\\p{L}\\p{N}])`,
  ].filter(Boolean).join("|"), "giu");
  const found = [];
  let place = 0;
  for (const match of text.matchAll(pattern)) {
    found.push(text.slice(place, match.index), h("mark", {}, match[0]));
    place = match.index + match[0].length;
  }
  found.push(text.slice(place));
  return found;
}
