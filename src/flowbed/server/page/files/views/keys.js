// Keys and quotas: who may call this server, and what they used today.

import { get, post, useKey } from "../api.js";
import { ask, badge, confirm, copy, fill, h, prose, say, table } from "../dom.js";
import { ago, moment, number } from "../format.js";

export async function show(root, { signal, session, again }) {
  const { keys, tiers } = await get("/v1/admin/keys", signal);
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

  async function create() {
    const wanted = await asked(tiers, session.keys_required);
    if (!wanted) return;
    if (wanted.admin && !await confirm(`Create “${wanted.name}” with the admin scope?`, "Whoever has it can roll back collections, and create and revoke keys.", "Create")) return;
    try {
      const made = await post("/v1/admin/keys", wanted, signal);
      await shown(made);
      if (!session.keys_required) useKey(made.secret); // from now on this server asks for one
      again({ anew: true });
    } catch (error) {
      if (!signal.aborted) fill(problem, h("p", { class: "problem" }, prose(error.message)));
    }
  }

  fill(root,
    h("div", { class: "head" }, h("h1", { tabindex: "-1" }, "Keys and quotas"), h("button", { type: "button", onclick: create }, "New key…")),
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

/** Ask for what a new key is for and may do; null if it was not said. */
function asked(tiers, required) {
  return ask("A new key", (close) => {
    const name = h("input", { id: "key-name", required: true, maxlength: "100", autocomplete: "off" });
    const tier = h("select", { id: "key-tier" }, tiers.map((each) => h("option", { value: each, selected: each === "default" }, each)));
    const admin = h("input", { type: "checkbox", id: "key-admin" });
    return h("form", { onsubmit: (event) => { event.preventDefault(); close({ name: name.value, tier: tier.value, admin: admin.checked }); } },
      h("label", { for: "key-name" }, "What it is for"), name,
      h("label", { for: "key-tier" }, "Tier"), tier,
      h("label", { class: "row", for: "key-admin" }, admin, "Admin scope: may do all that this page does"),
      !required && h("p", { class: "hint" }, "It is the first: from then on this server asks everybody for a key, also this page."),
      h("div", { class: "actions" }, h("button", { type: "button", onclick: () => close() }, "Leave it"), h("button", { class: "primary" }, "Create")));
  });
}

/** Show the secret of a new key, this once. */
function shown({ name, secret }) {
  return ask(`The key “${name}”`, (close) => [
    h("p", {}, "Keep it now: it is stored nowhere, and not shown again."),
    h("pre", { class: "mono", tabindex: "0", "aria-label": "Secret" }, secret),
    h("div", { class: "actions" }, h("button", { type: "button", onclick: () => copy(secret, "Key") }, "Copy"), h("button", { type: "button", class: "primary", onclick: () => close() }, "I have kept it")),
  ]);
}

function quota(used, limit) {
  if (limit === null || limit === undefined) return number(used);
  return [`${number(used)} of ${number(limit)}`, h("progress", { max: String(limit), value: String(Math.min(used, limit)), "aria-label": `${used} of ${limit}` })];
}
