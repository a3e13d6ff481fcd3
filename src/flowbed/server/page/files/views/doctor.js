// Doctor: the checklist from the sources to the publications.

import { get } from "../api.js";
import { badge, copy, fill, h } from "../dom.js";
import { count } from "../format.js";

const KINDS = { ok: "ok", waiting: "waiting", failed: "failed", "not used": "" };

export async function show(root, { signal, again }) {
  const { items } = await get("/v1/admin/checklist", signal);
  const failed = items.filter((each) => each.state === "failed").length;
  const waiting = items.filter((each) => each.state === "waiting").length;
  const stages = [...new Set(items.map((each) => each.stage))];
  fill(root,
    h("div", { class: "head" }, h("h1", { tabindex: "-1" }, "Doctor"),
      h("p", { role: "status" }, failed ? `${count(failed, "item")} of ${items.length} need attention` : waiting ? `${count(waiting, "item")} of ${items.length} wait for a command` : `All of ${count(items.length, "item")} are well`),
      h("button", { type: "button", onclick: again }, "Look again")),
    h("div", { class: "panel flush" }, h("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": "Checklist" }, h("table", {},
      h("caption", { class: "hidden" }, "Checklist"),
      h("thead", {}, h("tr", {}, ["Stage", "State", "Found"].map((each) => h("th", { scope: "col" }, each)))),
      h("tbody", {}, stages.flatMap((stage) => items.filter((each) => each.stage === stage).map((each, place) => h("tr", {},
        h("th", { scope: "row", title: each.how }, place ? h("span", { class: "hidden" }, stage) : stage),
        h("td", {}, badge(each.state, KINDS[each.state])),
        h("td", { class: "wide" }, each.state === "not used" ? "" : h("b", {}, `${each.subject}: `), each.found,
          each.fix && h("div", { class: "row" }, h("code", {}, each.fix), h("button", { type: "button", class: "quiet", "aria-label": `Copy ${each.fix}`, onclick: () => copy(each.fix, "command") }, "Copy")))))))))));
}
