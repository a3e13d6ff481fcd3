// Spend: tokens planned against tokens billed over time, and what they cost.

import { get } from "../api.js";
import { bars } from "../chart.js";
import { facts, fill, h, table } from "../dom.js";
import { money, number } from "../format.js";

export async function show(root, { signal }) {
  const found = await get("/v1/admin/spending", signal);
  const sum = (rows, name) => rows.reduce((total, each) => total + each[name], 0);
  const rows = (first) => [
    { name: first, cell: (each) => each.name || "none" },
    { name: "Texts", number: true, cell: (each) => number(each.texts) },
    { name: "Tokens planned", number: true, cell: (each) => number(each.planned) },
    { name: "Tokens billed", number: true, cell: (each) => number(each.billed) },
    { name: "Difference", number: true, cell: (each) => difference(each) },
    { name: "Cost", number: true, cell: (each) => money(each.cost_usd) },
  ];
  fill(root,
    h("div", { class: "head" }, h("h1", { tabindex: "-1" }, "Spend"), h("p", {}, "What providers billed, against what was planned.")),
    h("div", { class: "panel" }, facts([
      ["Paid in all", money(sum(found.lanes, "cost_usd"))], ["Paid in 30 days", money(sum(found.days, "cost_usd"))],
      ["Tokens planned", number(sum(found.lanes, "planned"))], ["Tokens billed", number(sum(found.lanes, "billed"))], ["Texts", number(sum(found.lanes, "texts"))],
    ])),
    h("div", { class: "panel" }, h("h2", {}, "Tokens by day"), found.days.length
      ? bars("Tokens planned and billed by day", filled(found.days), ["planned", "billed"])
      : h("p", { class: "note" }, "Nothing was billed in the last 30 days. A model on this machine costs nothing and has no rows here.")),
    h("div", { class: "panel flush" }, h("h2", {}, "By source"), table("Spend by source", rows("Source"), found.sources)),
    h("div", { class: "panel flush" }, h("h2", {}, "By lane"), table("Spend by lane", rows("Lane"), found.lanes)),
    h("div", { class: "panel flush" }, h("h2", {}, "By day"), table("Spend by day", rows("Day"), found.days.toReversed())));
}

function difference({ planned, billed }) {
  if (!planned) return "";
  const share = (billed - planned) / planned * 100;
  return `${share > 0 ? "+" : share < 0 ? "−" : ""}${Math.abs(share).toFixed(1)} %`;
}

/** Put in the days without any spending. */
function filled(days) {
  const known = new Map(days.map((each) => [each.name, each]));
  const found = [];
  for (let day = new Date(`${days[0].name}T00:00:00Z`); day <= new Date(`${days.at(-1).name}T00:00:00Z`); day.setUTCDate(day.getUTCDate() + 1)) {
    const name = day.toISOString().slice(0, 10);
    found.push(known.get(name) ?? { name, planned: 0, billed: 0 });
  }
  return found;
}
