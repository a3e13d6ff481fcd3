// Batches of this server's clients, and submissions to the provider, with their progress.

import { get, post } from "../api.js";
import { badge, confirm, fill, h, prose, say, table } from "../dom.js";
import { ago, count, moment, money, number } from "../format.js";

const AGAIN = 3000; // ms between two looks
const STATES = { completed: "ok", submitted: "waiting", submitting: "waiting", ready: "waiting", failed: "failed", expired: "failed" };

export async function show(root, { signal }) {
  const problem = h("div", { role: "alert" });
  const below = h("div", { class: "view" });
  fill(root, h("div", { class: "head" }, h("h1", { tabindex: "-1" }, "Jobs and batches")), problem, below);
  let drawn = "";
  async function look() {
    const [{ batches }, { live, ended }] = await Promise.all([get("/v1/admin/batches", signal), get("/v1/admin/submissions", signal)]);
    const now = JSON.stringify([batches, live, ended], (_, value) => typeof value === "bigint" ? String(value) : value);
    if (now === drawn) return;
    drawn = now;
    fill(below,
      h("div", { class: "panel flush" }, h("h2", {}, "Batches of this server's clients"), table("Batches", [
        { name: "Batch", cell: (each) => h("span", { class: "mono" }, each.id) },
        { name: "Key", cell: (each) => each.owner || "none" },
        { name: "State", cell: (each) => badge(each.cancel ? "cancelling" : each.state, "waiting") },
        { name: "Lines", number: true, cell: (each) => [`${number(each.completed + each.failed)} of ${number(each.total)}`, bar(each.completed + each.failed, each.total)] },
        { name: "Failed", number: true, cell: (each) => number(each.failed) },
        { name: "Begun", cell: (each) => h("span", { title: moment(each.created) }, ago(each.created)) },
      ], batches, { empty: "None at work. Clients create them at /v1/batches." })),
      h("div", { class: "panel flush" }, h("h2", {}, "Submissions to the provider"), table("Live submissions", [
        { name: "Submission", cell: (each) => h("span", { class: "mono", title: each.id }, each.id.slice(0, 12)) },
        { name: "State", cell: (each) => badge(each.cancel ? "being cancelled" : each.state, STATES[each.state]) },
        { name: "Texts", number: true, cell: (each) => [`${number(each.done + each.failed)} of ${number(each.texts)}`, bar(each.done + each.failed, each.texts)] },
        { name: "Tokens", number: true, cell: (each) => number(each.tokens) },
        { name: "Sent", cell: (each) => each.submitted ? h("span", { title: moment(each.submitted) }, ago(each.submitted)) : "not yet" },
        { name: "Deadline", cell: (each) => each.deadline ? ago(each.deadline) : "none" },
        { name: "", class: "wide", cell: (each) => [each.error, " ", !each.cancel && h("button", { type: "button", class: "quiet", onclick: () => cancel(each) }, "Cancel…")] },
      ], live, { empty: "None under way." })),
      h("div", { class: "panel flush" }, h("h2", {}, "Ended submissions"), table("Ended submissions", [
        { name: "Submission", cell: (each) => h("span", { class: "mono", title: each.id }, each.id.slice(0, 12)) },
        { name: "Ended", cell: (each) => h("span", { title: moment(each.ended) }, ago(each.ended)) },
        { name: "State", cell: (each) => badge(each.state, STATES[each.state]) },
        { name: "Texts", number: true, cell: (each) => `${number(each.done)} of ${number(each.texts)}` },
        { name: "Tokens billed", number: true, cell: (each) => number(each.billed) },
        { name: "Cost", number: true, cell: (each) => money(each.cost_usd) },
        { name: "", class: "wide", cell: (each) => each.error },
      ], ended, { empty: "None yet." })));
  }

  async function cancel(each) {
    const sure = await confirm("Cancel this submission?", `The provider is asked to stop; the next poll keeps what it has answered by then. ${count(each.texts - each.done - each.failed, "text")} wait again.`, "Cancel the submission");
    if (!sure) return;
    try {
      await post("/v1/admin/submissions/cancel", { submission: each.id }, signal);
      say("The cancellation is requested");
      await look();
    } catch (error) {
      if (!signal.aborted) fill(problem, h("p", { class: "problem" }, prose(error.message)));
    }
  }

  await look();
  const timer = setInterval(() => look().catch(() => {}), AGAIN); // the banner says it when the server is away
  return () => clearInterval(timer);
}

const bar = (done, whole) => h("progress", { max: String(Math.max(1, whole)), value: String(done), "aria-label": `${done} of ${whole}` });
