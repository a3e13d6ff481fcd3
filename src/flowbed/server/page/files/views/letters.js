// Dead letters: failures that need attention, by cause, and another try.

import { get, post } from "../api.js";
import { badge, fill, h, prose, say, table } from "../dom.js";
import { ago, count, moment, number } from "../format.js";

const SHOWN = 200; // of one cause

export async function show(root, { signal, again }) {
  const { letters } = await get("/v1/admin/dead-letters", signal);
  const causes = new Map();
  for (const each of letters) {
    const cause = `${each.kind}\n${each.owner}\n${each.reason}`;
    causes.set(cause, [...causes.get(cause) ?? [], each]);
  }
  const problem = h("div", { role: "alert" });

  async function retry(button, subjects) {
    button.disabled = true;
    try {
      const done = await post("/v1/admin/dead-letters/retry", { subjects }, signal);
      say(`${count(done.waiting, "chunk")} wait again`);
      if (done.failures.length) fill(problem, h("p", { class: "problem" }, `${done.failures[0].subject}: ${done.failures[0].reason}`));
      else again();
    } catch (error) {
      if (!signal.aborted) fill(problem, h("p", { class: "problem" }, prose(error.message)));
    } finally {
      button.disabled = false;
    }
  }

  fill(root,
    h("div", { class: "head" }, h("h1", { tabindex: "-1" }, "Dead letters"),
      letters.length > 0 && h("button", { type: "button", onclick: (event) => retry(event.currentTarget, []) }, "Try all again"),
      h("p", {}, letters.length ? `${count(letters.length, "failure")} of ${count(causes.size, "cause")}. Another try queues their chunks; this server embeds them.` : "Nothing has failed for good.")),
    problem,
    [...causes.values()].map((group) => h("section", { class: "panel flush" },
      h("h2", {}, badge(group[0].kind, "failed"), ` ${group[0].owner}: ${group[0].reason}`),
      table(`Failures: ${group[0].reason}`, [
        { name: "Subject", cell: (each) => h("span", { class: "mono" }, each.subject) },
        { name: "Since", cell: (each) => h("span", { title: moment(each.at) }, ago(each.at)) },
        { name: "Tries", number: true, cell: (each) => number(each.attempts) },
        { name: "Batch file", class: "wide", cell: (each) => h("span", { class: "mono" }, each.batches.filter((key) => key !== each.subject).join(", ")) },
        { name: "", cell: (each) => h("button", { type: "button", class: "quiet", "aria-label": `Try ${each.subject} again`, onclick: (event) => retry(event.currentTarget, [each.subject]) }, "Try again") },
      ], group.slice(0, SHOWN)),
      group.length > SHOWN && h("p", { class: "empty" }, `and ${number(group.length - SHOWN)} more`))));
}
