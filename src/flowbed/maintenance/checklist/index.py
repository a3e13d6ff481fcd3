"""The stages of the index: does it open and agree with the ledger, are its ids and its space right, is a lease free?"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from flowbed.errors import NotFound
from flowbed.index.active_space import live_collections
from flowbed.index.audit import DOUBLED, ILL_FORMED
from flowbed.index.versions import state
from flowbed.maintenance.checklist.items import Item, findings, stage
from flowbed.maintenance.compare import index_faults, known_collections, waiting_runs
from flowbed.maintenance.doctor.findings import named
from flowbed.maintenance.doctor.index import COMPARED, repair_command
from flowbed.maintenance.inconsistencies import UNFIT
from flowbed.records import Space
from flowbed.records.values import count

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from flowbed.maintenance.checklist.items import ChecklistContext
    from flowbed.maintenance.inconsistencies import Fault

# Faults that stages of their own report.
IDS, SPACES = frozenset({ILL_FORMED, DOUBLED}), frozenset({UNFIT})


@stage(
    "index",
    how="the newest version is opened, and its rows are counted; in collections of up to"
    f" {COMPARED:,} chunks they are also compared with the ledger one by one",
    unused="no collection has an index: nothing was committed",
)
async def _index(context: ChecklistContext) -> AsyncIterator[Item]:
    for name in await known_collections(context):
        faults = [each for each in await _faults(context, name) if each.kind not in IDS | SPACES]
        for each in faults:
            yield _failed(name, each)
        live = await context.collections.get(name)
        if live is None or faults:
            continue
        now = await state(live, datasets=context.datasets)
        figures = {"version": now.version, "rows": now.rows, "unindexed_rows": now.unindexed_rows}
        found = f"version {now.version} opens, and has {count(now.rows, 'row')}"
        yield Item(subject=name, state="ok", found=found, figures=figures)
    for item in await findings(context, "vector-index"):
        yield item


@stage(
    "ids",
    how="the ids in the index are read: their form, where no precomputed rows may have others, and that none is there"
    " twice",
    unused="no collection has an index",
)
async def _ids(context: ChecklistContext) -> AsyncIterator[Item]:
    for name in await known_collections(context):
        faults = [each for each in await _faults(context, name) if each.kind in IDS]
        for each in faults:
            yield _failed(name, each)
        live = await context.collections.get(name)
        if live is not None and not faults:
            rows = (await state(live, datasets=context.datasets)).rows
            found = f"the ids of {count(rows, 'row')} are well-formed"
            yield Item(subject=name, state="ok", found=found, figures={"rows": rows})


@stage(
    "space",
    how="the space of each run to be committed, and the dimensions of the index, are compared with active.json",
    unused="no collection has a space",
)
async def _space(context: ChecklistContext) -> AsyncIterator[Item]:
    for live in await live_collections(context.store):
        name = live.collection
        runs = await waiting_runs(context.ledger, name)
        other = [run for run in runs if Space.from_json(run.space).fingerprint != live.space.fingerprint]
        if other:
            models = sorted({Space.from_json(run.space).model for run in other})
            yield Item(
                subject=name,
                state="failed",
                found=f"{count(len(other), 'run')} to be committed with vectors of {named(models)}, and the collection"
                f" is of {live.space.model}: {named([run.id for run in other])}",
                figures={"runs": len(runs), "other": len(other)},
                fix=f"flowbed verify {name} --repair; flowbed run",
            )
            continue
        faults = [each for each in await _faults(context, name) if each.kind in SPACES]
        for each in faults:
            yield _failed(name, each)
        if not faults:
            yield Item(
                subject=name,
                state="ok",
                found=f"one space, {live.space.space8} ({live.space.model}, {live.space.dimensions:,} dimensions)",
                figures={"dimensions": live.space.dimensions, "runs": len(runs)},
            )


@stage(
    "lease",
    how="lease.json is read: was it released, does its holder run on this machine, when was it renewed?",
    unused="no lease is in the store: nothing was compacted",
)
async def _lease(context: ChecklistContext) -> AsyncIterator[Item]:
    held = await findings(context, "lease")
    for item in held:
        yield item
    for name in await known_collections(context):
        key = f"{name}/lease.json"
        if key in {item.subject for item in held}:
            continue
        try:
            lease = json.loads((await context.store.get(key)).body)
        except NotFound:
            continue
        busy = not lease["released"]
        yield Item(
            subject=key,
            state="waiting" if busy else "ok",
            found=f"{lease['owner']} holds it, and renews it" if busy else "it was released",
        )


def _failed(name: str, fault: Fault) -> Item:
    return Item(
        subject=name,
        state="failed",
        found=f"{fault.what}: {named(fault.examples)}",
        figures={fault.kind: fault.count},
        fix=repair_command(name, fault),
    )


async def _faults(context: ChecklistContext, name: str) -> tuple[Fault, ...]:
    """Compare a collection with the ledger once for all stages."""
    if name not in context.faults:
        counts = await context.ledger.chunks.counts()
        chunks = sum(number for (collection, _), number in counts.items() if collection == name)
        found = await index_faults(context, name, rows=chunks <= COMPARED)
        context.faults[name] = found.summary
    return context.faults[name]
