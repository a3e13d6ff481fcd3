"""Checks of the store and of the machine: permissions, space, the vector cache, leases, sources and orphans."""

from __future__ import annotations

import asyncio
import json
import shlex
import stat
from datetime import timedelta
from typing import TYPE_CHECKING

from flowbed.errors import Misconfigured, NotFound
from flowbed.index.active_space import require_same
from flowbed.index.lease import TTL
from flowbed.maintenance.compare import known_collections
from flowbed.maintenance.doctor.findings import Finding, check, named
from flowbed.maintenance.forget.request import REQUESTS
from flowbed.maintenance.garbage import find_garbage
from flowbed.maintenance.inspect import sources
from flowbed.maintenance.key_mark import lost_keys
from flowbed.records.external import is_external
from flowbed.records.precomputed import is_precomputed
from flowbed.records.values import count
from flowbed.records.written import is_documents

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from flowbed.lanes.contexts import Context, IndexContext
    from flowbed.maintenance.doctor.findings import DoctorContext

# A lease is renewed three times in its time to live; clocks do not differ by ten times that.
SILENT = 10 * timedelta(seconds=TTL)
# A compaction of a million rows writes about this much.
FREE_BYTES = 2**30
PROBE = "doctor-probe"


@check("ledger")
async def _ledger(context: DoctorContext) -> AsyncIterator[Finding]:
    if fault := await asyncio.to_thread(context.ledger_fault):
        yield Finding(
            severity="error",
            subject="ledger",
            what=f"{context.ledger.location} is damaged: {fault}; its files are kept beside a new one, and no vector is"
            " paid for again",
            fix="flowbed verify --repair; flowbed run",
        )


@check("store")
async def _writable(context: DoctorContext) -> AsyncIterator[Finding]:
    try:
        await context.store.put(PROBE, b"")
        await context.store.delete([PROBE])
    except Misconfigured as error:
        path = context.store_path
        yield Finding(
            severity="error",
            subject=path,
            what=f"nothing can be written: {error}",
            fix="flowbed doctor" if "://" in path else f"chmod -R u+rwX {shlex.quote(path)}",
        )


@check("permissions")
async def _permissions(context: DoctorContext) -> AsyncIterator[Finding]:
    for path in context.private_paths:
        if path.exists() and path.stat().st_mode & stat.S_IRWXO:
            yield Finding(
                severity="warning",
                subject=str(path),
                what="every user of this machine can read the texts, vectors or hashes of keys in it",
                fix=f"chmod -R o-rwx {shlex.quote(str(path))}",
            )


@check("keys")
async def _keys(context: Context) -> AsyncIterator[Finding]:
    if await lost_keys(context.store, context.ledger.keys):
        yield Finding(
            severity="warning",
            subject="keys",
            what="this project has had API keys, which its ledger does not know: the server will not start without"
            " keys, unless with --without-keys",
            fix="flowbed keys create NAME",
        )


@check("model")
async def _model(context: DoctorContext) -> AsyncIterator[Finding]:
    if missing := await asyncio.to_thread(context.missing_model):
        what, command = missing
        yield Finding(severity="error", subject="model", what=what, fix=command)
        return
    async for found in _other_spaces(context):
        yield found


async def _other_spaces(context: DoctorContext) -> AsyncIterator[Finding]:
    """Find the collections that sources fill, and that the configured model can neither fill nor search."""
    places = await asyncio.to_thread(context.configured_places)
    filled = {name: place for place in places for name in place.collections}
    lives = [live for live in await context.collections.all() if live.collection in filled]
    if not lives:
        return
    try:
        space = (await asyncio.to_thread(context.embedder)).space
    except Misconfigured:
        return  # the next run says so
    for live in lives:
        try:
            require_same(live, space)
        except Misconfigured as error:
            place = filled[live.collection]
            yield Finding(
                severity="error",
                subject=live.collection,
                what=f"{error} for its sources. Until then no run changes it, and a search finds nothing in it",
                fix=f"flowbed run {place.name}",
            )


@check("disk")
async def _disk(context: DoctorContext) -> AsyncIterator[Finding]:
    if (free := context.free_bytes()) < FREE_BYTES:
        yield Finding(
            severity="warning",
            subject=context.store_path,
            what=f"{free / 1e9:,.2f} GB are free; a run that finds the disk full stops, and loses nothing",
            fix="flowbed gc",
        )


@check("cache")
async def _cache(context: DoctorContext) -> AsyncIterator[Finding]:
    if fault := context.cache_fault():
        yield Finding(
            severity="warning",
            subject="vector cache",
            what=f"it cannot be read ({fault}): vectors that were paid for may be paid for again",
            fix="flowbed gc",
        )


@check("lease")
async def _leases(context: Context) -> AsyncIterator[Finding]:
    for name in await known_collections(context):
        key = f"{name}/lease.json"
        if reason := await _abandoned(context, name, key):
            yield Finding(
                severity="warning",
                subject=key,
                what=f"the lease of {name} was never released: {reason}",
                fix=f"flowbed compact {name}",
            )


async def _abandoned(context: Context, collection: str, key: str) -> str:
    """Say why a lease will not be released any more; an empty text if it was, or may be."""
    try:
        lease = json.loads((await context.store.get(key)).body)
        owner, released = str(lease["owner"]), bool(lease["released"])
    except NotFound:
        return ""
    except (ValueError, KeyError, TypeError):
        return "it cannot be read"
    if released:
        return ""
    if context.dead(owner):
        return f"{owner} has ended"
    # A process on another host can only be judged by its last renewal. A store lists folders, not single objects.
    renewed = [listed.modified async for listed in context.store.list(collection) if listed.key == key]
    now = context.clock()
    silent = timedelta(microseconds=now - max(renewed, default=now))
    if silent < SILENT:
        return ""
    return f"{owner} has not renewed it for {count(silent // timedelta(minutes=1), 'minute')}"


@check("sources")
async def _sources(context: DoctorContext) -> AsyncIterator[Finding]:
    for place in await asyncio.to_thread(context.configured_places):
        if not place.misset and not place.missing:
            continue
        todo = (
            "correct its settings in flowbed.toml"
            if place.misset
            else f"put it back, or name its new place with `flowbed add {place.name} {place.kind} LOCATION`"
        )
        yield Finding(
            severity="error",
            subject=place.name,
            what=f"nothing can be read of this source: {place.misset or place.missing}. What is indexed of it stays;"
            f" {todo}",
            fix=f"flowbed run {place.name}",
        )
    for each in await sources(context):
        if not (
            each.configured or is_precomputed(each.name) or is_external(each.name) or is_documents(each.name)
        ):
            yield Finding(
                severity="warning",
                subject=each.name,
                what=f"no source of this project has this name any more, but searches still find"
                f" {count(each.documents, 'document')} of it",
                fix=f"flowbed run {each.name} --allow-deletes",
            )


@check("orphans")
async def _orphans(context: IndexContext) -> AsyncIterator[Finding]:
    found = [each async for each in find_garbage(context) if each.orphan]
    if found:
        size = sum(each.bytes for each in found)
        yield Finding(
            severity="warning",
            subject=named([each.key for each in found]),
            what=f"{size / 1e6:,.1f} MB in the store belong to nothing: {found[0].why}",
            fix="flowbed gc",
        )


@check("forget")
async def _unfinished_requests(context: Context) -> AsyncIterator[Finding]:
    async for listed in context.store.list(REQUESTS):
        yield Finding(
            severity="warning",
            subject=f"request {listed.key.rpartition('/')[2].removesuffix('.json')} to forget rows",
            what="it was interrupted, or could not reach a place that it can reach now",
            fix="flowbed forget --resume",
        )
