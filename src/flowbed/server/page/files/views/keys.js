// Keys and quotas: who may call this server, and what they used today.

import { get, post } from "../api.js";
import { badge, confirm, fill, h, prose, say, table } from "../dom.js";
import { ago, moment, number } from "../format.js";

export async function show(root, { signal, session, again }) {
  const { keys } = await get("/v1/admin/keys", signal);
  const problem = h("div", { role: "alert" });

  async function revoke(each) {
    const own = each.id === session.key ? " This page uses it: it will ask for another." : "";
    const sure = await confirm(`Revoke the key “${each.name}”?`, `Its clients are refused within seconds, and it cannot be made valid again.${own}`, "Revoke");
    if (!sure) return;
    try {
      await post(`/v1/admin/keys/${encodeURIComponent(each.id)}/revoke`, {}, signal);
      say(`The key ${each.name} is revoked`);
      again();
    } catch (error) {
      if (!signal.aborted) fill(problem, h("p", { class: "problem" }, prose(error.message)));
    }
  }

  fill(root,
    h("div", { class: "head" }, h("h1", { tabindex: "-1" }, "Keys and quotas"), h("p", {}, h("code", {}, "flowbed keys create NAME"), " makes one and shows its secret once.")),
    problem,
    h("div", { class: "panel flush" }, table("Keys", [
      { name: "Name", cell: (each) => each.name },
      { name: "Key", cell: (each) => h("span", { class: "mono fixed" }, `${each.prefix}…`) },
      { name: "Scope", cell: (each) => [each.admin ? badge("admin", "waiting") : "search and embed", each.models.length > 0 && `, only ${each.models.join(", ")}`] },
      { name: "Tier", cell: (each) => each.tier },
      { name: "Tokens today", number: true, cell: (each) => quota(each.used_today, each.limits?.tokens) },
      { name: "Requests a minute", number: true, cell: (each) => each.limits?.requests == null ? "no limit" : number(each.limits.requests) },
      { name: "Last used", cell: (each) => h("span", { title: moment(each.used) }, ago(each.used)) },
      { name: "", cell: (each) => each.revoked ? badge(`revoked ${ago(each.revoked)}`, "failed") : h("button", { type: "button", class: "quiet", "aria-label": `Revoke ${each.name}`, onclick: () => revoke(each) }, "Revoke…") },
    ], keys, { empty: "There are no keys: this server answers only this machine." })));
}

function quota(used, limit) {
  if (limit === null || limit === undefined) return number(used);
  return [`${number(used)} of ${number(limit)}`, h("progress", { max: String(limit), value: String(Math.min(used, limit)), "aria-label": `${used} of ${limit}` })];
}
