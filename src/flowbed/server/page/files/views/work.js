// Jobs that write into collections, batches of this server's clients, and submissions to the provider, with their progress.

import { get, post } from "../api.js";
import { badge, confirm, fill, h, prose, say, table } from "../dom.js";
import { ago, count, moment, money, number } from "../format.js";

const JOBS = 50; // newest jobs that are shown
const JOB_STATES = { completed: "ok", running: "waiting", queued: "waiting", cancelling: "waiting", failed: "failed" };
const AGAIN = 3000; // ms between two looks
const STATES = { completed: "ok", submitted: "waiting", submitting: "waiting", ready: "waiting", failed: "failed", expired: "failed" };

export async function show(root, { signal }) {
  const problem = h("div", { role: "alert" });
  const below = h("div", { class: "view" });
  fill(root, h("div", { class: "head" }, h("h1", { tabindex: "-1" }, "Jobs and batches")), problem, below);
  let drawn = "";
  async function look() {
    const [{ data: jobs }, { batches }, { live, ended }] = await Promise.all([get(`/v1/jobs?limit=${JOBS}`, signal), get("/v1/admin/batches", signal), get("/v1/admin/submissions", signal)]);
    const now = JSON.stringify([jobs, batches, live, ended], (_, value) => typeof value === "bigint" ? String(value) : value);
    if (now === drawn) return;
    drawn = now;
    fill(below,
      h("div", { class: "panel flush" }, h("h2", {}, "Jobs of this key"), table("Jobs", [
        { name: "Job", cell: (each) => h("span", { class: "mono", title: each.id }, each.id.slice(0, 16)) },
        { name: "Kind", cell: (each) => each.kind },
        { name: "Collection", cell: (each) => each.collection },
        { name: "State", cell: (each) => [badge(each.status, JOB_STATES[each.status]), each.stage && ` ${each.stage}`] },
        { name: "Chunks", number: true, cell: (each) => [each.counts.chunks === null ? "not counted yet" : `${number(each.counts.stored + each.counts.skipped)} of ${number(each.counts.chunks)}`, bar(Math.round(each.progress * 100), 100)] },
        { name: "Begun", cell: (each) => h("span", { title: moment(each.created_at * 1e6) }, ago(each.created_at * 1e6)) },
        { name: "", class: "wide", cell: (each) => [each.error?.message, each.error && " ",
          ["queued", "running"].includes(each.status) && h("button", { type: "button", class: "quiet", "aria-label": `Cancel ${each.id}`, onclick: () => end(each) }, "Cancel…"),
          ["failed", "cancelled"].includes(each.status) && h("button", { type: "button", class: "quiet", "aria-label": `Try ${each.id} again`, onclick: () => retry(each) }, "Try again")] },
      ], jobs, { empty: "None. Clients create them at /v1/jobs." })),
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

  async function end(each) {
    const sure = await confirm("Cancel this job?", `Whole documents that are finished stay in ${each.collection}; the rest is not written.`, "Cancel the job");
    if (sure) await change(`/v1/jobs/${encodeURIComponent(each.id)}/cancel`, "The job is being cancelled");
  }

  const retry = (each) => change(`/v1/jobs/${encodeURIComponent(each.id)}/retry`, "The job waits again");

  async function change(path, done) {
    try {
      await post(path, {}, signal);
      say(done);
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
