"""The stages of publications: is the newest version published, and can readers use what the pointer names?"""

from __future__ import annotations

import asyncio
import shlex
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING

from flowbed.errors import Error, Misconfigured, NotFound, Rejected
from flowbed.index.versions import MANIFESTS, newest_manifest, state
from flowbed.maintenance.checklist.items import Item, stage
from flowbed.maintenance.doctor.findings import named
from flowbed.publish import REMOTE, Remote, open_publication
from flowbed.publish.chroma import (
    FOLDER,
    LIST,
    pointer_key,
    read_pointer,
    read_snapshot,
    snapshot_key,
    snapshots_key,
)
from flowbed.publish.chroma.readers import leased_versions
from flowbed.publish.chroma.rows_held import rows_held
from flowbed.publish.chroma.uploading import wrong_in_store
from flowbed.publish.due import collections_of, interval
from flowbed.publish.records import read_record
from flowbed.records.values import count
from flowbed.storage import folder_of

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from flowbed.index.active_space import Live
    from flowbed.maintenance.checklist.items import ChecklistContext
    from flowbed.publish.chroma import Snapshot
    from flowbed.publish.due import Configured
    from flowbed.publish.records import Record

CHROMA = "chroma"
# A run publishes right after its commit, and a large collection takes minutes; later than this, nobody does it.
PUBLISH_WITHIN = timedelta(minutes=10)
MICROSECOND = timedelta(microseconds=1)
# Snapshots of up to this many bytes are read whole, in some ten seconds from S3; of larger ones sizes are compared.
READ_BYTES = 2**28
UNUSED = "flowbed.toml has no publication of kind chroma"
NO_SNAPSHOT = "there is no current snapshot; the stage pointer says why, where one is expected"


@stage(
    "published",
    how="the record of each publication is compared with the newest version of the index and its space, and a Chroma"
    " server is asked what it holds",
    unused="flowbed.toml has no [publish.NAME]",
)
async def _published(context: ChecklistContext) -> AsyncIterator[Item]:
    for each in context.publications:
        for name in await collections_of(each, context.store):
            live = await context.collections.get(name)
            if live is not None:
                yield await _one_published(context, each, live)


@stage(
    "pointer",
    how="latest-pointer.txt is read, and the file list of the snapshot that it names",
    unused=UNUSED,
)
async def _pointer(context: ChecklistContext) -> AsyncIterator[Item]:
    for name in await _published_as_chroma(context):
        try:
            current = await _current(context, name)
        except _PointerFault as fault:
            yield Item(subject=name, state="failed", found=str(fault), fix=fault.fix)
            continue
        if current.snapshot is None:
            yield _nothing_published(name)
            continue
        held = current.snapshot
        figures = {"snapshots": current.snapshots, "index_version": held.index_version}
        found = (
            f"it names {held.version}, made of version {held.index_version} of the index;"
            f" {count(current.snapshots, 'snapshot')} in the store"
        )
        yield Item(subject=name, state="ok", found=found, figures=figures)


@stage(
    "snapshot files",
    how=f"each file of the list is listed with its size, and up to {READ_BYTES / 2**20:,.0f} MiB in all are read and"
    " hashed",
    unused=NO_SNAPSHOT,
)
async def _snapshot_files(context: ChecklistContext) -> AsyncIterator[Item]:
    async for name, held in _snapshots(context):
        figures = {"files": len(held.files), "bytes": held.size}
        hashed = held.size <= READ_BYTES
        fault = await _wrong_sizes(context, held)
        if not fault and hashed:
            fault = await wrong_in_store(context.store, name, held.version)
        if fault:
            yield Item(subject=name, state="failed", found=fault, figures=figures, fix=_reconcile(name))
            continue
        read = "have the sizes and hashes of the list" if hashed else "have the sizes of the list"
        found = f"{count(len(held.files), 'file')} of {held.version}, {held.size / 1e6:,.1f} MB, {read}"
        yield Item(subject=name, state="ok", found=found, figures=figures)


@stage(
    "snapshot rows",
    how="the rows in the snapshot's own database, where the snapshot is read whole, are compared with its list and with"
    " the index",
    unused=NO_SNAPSHOT,
)
async def _snapshot_rows(context: ChecklistContext) -> AsyncIterator[Item]:
    async for name, held in _snapshots(context):
        figures = {"listed_rows": held.rows}
        try:
            rows = held.rows
            if held.size <= READ_BYTES:
                with context.scratch() as place:
                    rows = figures["rows"] = await rows_held(context.store, held, place)
        except Rejected as error:
            yield Item(subject=name, state="failed", found=str(error), figures=figures, fix=_reconcile(name))
            continue
        live = await context.collections.get(name)
        now = None if live is None else await state(live, datasets=context.datasets)
        wanted = now.rows if now is not None and now.version == held.index_version else held.rows
        figures["index_rows"] = now.rows if now is not None else 0
        if rows == held.rows == wanted:
            yield Item(
                subject=name, state="ok", found=f"{count(rows, 'row')} in {held.version}", figures=figures
            )
            continue
        what = "is empty" if not rows else f"has {count(rows, 'row')}"
        yield Item(
            subject=name,
            state="failed",
            found=f"snapshot {held.version} {what}; its list says {held.rows:,}, and version {held.index_version} of"
            f" the index has {wanted:,}",
            figures=figures,
            fix=_reconcile(name),
        )


@stage(
    "downloads",
    how="the leases of readers in the store; with CHROMA_ROOT set, also the sizes of the files on that file system",
    unused=NO_SNAPSHOT,
)
async def _downloads(context: ChecklistContext) -> AsyncIterator[Item]:
    async for name, held in _snapshots(context):
        reading = await leased_versions(context.store, name, now=context.clock())
        figures = {"reading": len(reading)}
        found = f"{count(len(reading), 'snapshot')} being downloaded now"
        if context.mount is None:
            yield Item(subject=name, state="ok", found=found, figures=figures)
            continue
        place = context.mount / "snapshots" / name
        again = f"flowbed pull {name} {shlex.quote(str(place))} --mode s3"
        there, fault = await asyncio.to_thread(_on_mount, place, held)
        if not there:
            found += f"; {held.version} is not in {place} yet"
            yield Item(subject=name, state="waiting", found=found, figures=figures, fix=again)
        elif fault:
            fix = f"rm -r {shlex.quote(str(place / held.version))}; {again}"
            yield Item(subject=name, state="failed", found=f"{fault} in {place}", figures=figures, fix=fix)
        else:
            found += f"; {held.version} is whole in {place}"
            yield Item(subject=name, state="ok", found=found, figures=figures)


@dataclass(frozen=True, kw_only=True)
class _Current:
    """The snapshot that the pointer names, None where nothing was published, and how many snapshots there are."""

    snapshot: Snapshot | None
    snapshots: int


class _PointerFault(Exception):  # noqa: N818 - a result, which one stage reports
    """The pointer names nothing that can be read; `fix` is the command."""

    def __init__(self, message: str, *, fix: str) -> None:
        super().__init__(message)
        self.fix = fix


async def _one_published(context: ChecklistContext, each: Configured, live: Live) -> Item:
    name, subject = live.collection, f"{each.name} of {live.collection}"
    now = await state(live, datasets=context.datasets)
    record = await read_record(context.store, name, each.name)
    fix = f"flowbed publish {name}"
    figures = {"index_version": now.version, "published": 0 if record is None else record.version}
    if record is None:
        behind, since = f"version {now.version} is not published, as nothing was before", 0
    elif record.space != live.space.fingerprint:
        behind, since = f"what is published is of another space than {live.space.space8}", 0
    elif await _is_built_again(context, live, record, now.version):
        behind, since = f"version {now.version} is of an index that was built again since", record.at
    elif record.version == now.version:
        if fault := await _on_server(context, each, live, record):
            return Item(subject=subject, state="failed", found=fault, figures=figures, fix=_reconcile(name))
        found = f"version {now.version}, {count(record.rows, 'row')}, is published as {record.place}"
        return Item(subject=subject, state="ok", found=found, figures=figures)
    else:
        behind, since = f"version {now.version} is not published: version {record.version} is", record.at
    seconds = interval(each.every)
    if seconds is None:
        found = f"{behind}; it is published by command only"
        return Item(subject=subject, state="waiting", found=found, figures=figures, fix=fix)
    due = max(await _committed_at(context, live), since + round(seconds * 1e6))
    late = context.clock() - due
    if late < PUBLISH_WITHIN // MICROSECOND:
        found = f"{behind}; the next run publishes it" if late >= 0 else f"{behind}; it is not due yet"
        return Item(subject=subject, state="waiting", found=found, figures=figures, fix=fix)
    minutes = late * MICROSECOND // timedelta(minutes=1)
    found = f"{behind}, although it was due {count(minutes, 'minute')} ago"
    return Item(subject=subject, state="failed", found=found, figures=figures, fix=fix)


async def _is_built_again(context: ChecklistContext, live: Live, record: Record, version: int) -> bool:
    """Return whether the index has reached the version of the record anew."""
    newest = await newest_manifest(live, store=context.store)
    if newest is None or not record.manifest or record.version != version:
        return False
    return newest.version == version and newest.modified != record.manifest


async def _on_server(context: ChecklistContext, each: Configured, live: Live, record: Record) -> str:
    """Ask the server of a publication, if it has one, whether it holds what was recorded."""
    if each.kind not in REMOTE:  # opening another one may need a package that is not here
        return ""
    publication = open_publication(each.kind, context.publish_context(each.name), each.options)
    try:
        if not isinstance(publication, Remote):
            return ""
        return await publication.fault(live, record.version, record.rows)
    except Error as error:
        return str(error)
    finally:
        await publication.aclose()


async def _committed_at(context: ChecklistContext, live: Live) -> int:
    """Return when the newest version was written (microseconds since 1970), off the store's own times."""
    times = [listed.modified async for listed in context.store.list(f"{live.key}/{MANIFESTS}")]
    return max(times, default=0)


async def _published_as_chroma(context: ChecklistContext) -> list[str]:
    """Return the collections that are published as Chroma directories, and that exist."""
    names = {
        name
        for each in context.publications
        if each.kind == CHROMA
        for name in await collections_of(each, context.store)
    }
    return [name for name in sorted(names) if {"index", FOLDER} & set(await context.store.folders(name))]


async def _current(context: ChecklistContext, name: str) -> _Current:
    """Read what the pointer names.

    Raises:
        _PointerFault: it names nothing that can be read.
    """
    try:
        pointer = await read_pointer(context.store, name)
    except Misconfigured as error:
        fix = f"{_remove(context, pointer_key(name))}; flowbed publish {name}"
        raise _PointerFault(str(error), fix=fix) from error
    known = await context.store.folders(snapshots_key(name))
    if pointer is None:
        whole = [each for each in known if await _is_listed(context, name, each)]
        if whole:
            found = f"there is no pointer, although {count(len(whole), 'snapshot')} are whole: {named(whole)}"
            raise _PointerFault(found, fix=f"flowbed publish {name}")
        return _Current(snapshot=None, snapshots=0)
    try:
        held = await read_snapshot(context.store, name, pointer.version)
    except NotFound as error:
        found = f"it names {pointer.version}, which does not exist, or was never completed"
        raise _PointerFault(found, fix=_reconcile(name)) from error
    except Rejected as error:
        raise _PointerFault(str(error), fix=_reconcile(name)) from error
    return _Current(snapshot=held, snapshots=len(known))


async def _is_listed(context: ChecklistContext, name: str, version: str) -> bool:
    prefix = snapshot_key(name, version)
    return f"{prefix}/{LIST}" in {listed.key async for listed in context.store.list(prefix)}


async def _snapshots(context: ChecklistContext) -> AsyncIterator[tuple[str, Snapshot]]:
    """Iterate over the current snapshots that can be read; the stage `pointer` reports the others."""
    for name in await _published_as_chroma(context):
        try:
            current = await _current(context, name)
        except _PointerFault:
            continue
        if current.snapshot is not None:
            yield name, current.snapshot


async def _wrong_sizes(context: ChecklistContext, held: Snapshot) -> str:
    prefix = snapshot_key(held.collection, held.version)
    sizes = {
        listed.key.removeprefix(f"{prefix}/"): listed.size async for listed in context.store.list(prefix)
    }
    for name, wanted in held.files.items():
        if name not in sizes:
            return f"{name} of snapshot {held.version} is missing"
        if sizes[name] != wanted.size:
            return f"{name} of snapshot {held.version} has {sizes[name]:,} bytes instead of {wanted.size:,}"
    return "" if held.files else f"snapshot {held.version} has no files"


def _on_mount(place: Path, held: Snapshot) -> tuple[bool, str]:
    """Return whether a snapshot is on the shared file system, and which of its files is not as it was published."""
    folder = place / held.version
    if not folder.is_dir():
        return False, ""
    for name, wanted in held.files.items():
        try:
            size = (folder / name).stat().st_size
        except OSError:  # never copied, or just collected
            size = -1
        if size != wanted.size:
            what = "is missing" if size < 0 else f"has {size:,} bytes instead of {wanted.size:,}"
            return True, f"{name} of snapshot {held.version} {what}"
    return True, ""


def _nothing_published(name: str) -> Item:
    found = "there is no pointer, and no snapshot"
    return Item(subject=name, state="waiting", found=found, fix=f"flowbed publish {name}")


def _reconcile(name: str) -> str:
    return f"flowbed publish {name} --reconcile"


def _remove(context: ChecklistContext, key: str) -> str:
    """Return the command that removes an object of the store."""
    folder = folder_of(context.store.url)
    if folder is not None:
        return f"rm {shlex.quote(str(folder / key))}"
    url = f"{context.store.url.rstrip('/')}/{key}"
    return f"aws s3 rm {shlex.quote(url)}"
