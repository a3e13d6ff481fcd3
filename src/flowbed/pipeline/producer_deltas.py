"""Deltas of other producers: registered, converted into precomputed rows, committed like any run.

A delta is an archive `{collection}/delta/{run}/delta.tar.gz`, or loose files under that prefix: a Chroma directory.
Nobody vouches for it: a child process with limits unpacks and reads it, and it is taken or refused as a whole. A
refused one is a dead letter; it does not stop the others.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import shutil
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from flowbed.errors import Misconfigured, Rejected
from flowbed.index.datasets import UNREADABLE
from flowbed.lanes.failures import RunStats
from flowbed.lanes.precomputed_batches import check_rows
from flowbed.lanes.write_deltas import commit_readable
from flowbed.ledger import DeadLetter
from flowbed.pipeline.delta_registry import (
    ARCHIVE,
    COMMITTED,
    DONE,
    RECORD,
    WAITING,
    collection_of,
    mark,
    registered,
    resolve,
)
from flowbed.pipeline.ingest import find_owned, ingest
from flowbed.publish.reading import PAGE
from flowbed.publish.reading.archives import RefusedError, checked_name, is_wanted
from flowbed.publish.reading.child import Job
from flowbed.publish.reading.directory import ChromaDirectory
from flowbed.records import Problem
from flowbed.telemetry import (
    DEAD_LETTER,
    DELTA_CONVERTED,
    DELTA_REGISTERED,
    PROGRESS,
    STAGE,
    reached,
)

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence
    from pathlib import Path

    from flowbed.lanes.contexts import Context, IndexContext
    from flowbed.records import Space
    from flowbed.records.precomputed import PrecomputedRows


UNPACKED = "unpacked"  # the folder below that of a delta in which it is unpacked


@dataclass(frozen=True, kw_only=True)
class ReadLimits:
    """The limits for one delta: bytes stored and unpacked, memory, seconds of processor time, seconds without a row."""

    stored_bytes: int = 2 * 2**30
    unpacked_bytes: int = 8 * 2**30
    memory_bytes: int = 4 * 2**30
    seconds: int = 900
    idle: float = 300.0


@dataclass(kw_only=True)
class DeltasAdded:
    """The result of adding deltas: those committed with their rows, those refused with reasons, and the new versions.

    `unchanged` rows were there already.
    """

    committed: list[str] = field(default_factory=list)
    rows: int = 0
    unchanged: int = 0
    refused: list[Problem] = field(default_factory=list)
    versions: dict[str, int] = field(default_factory=dict)


async def add_deltas(
    context: IndexContext,
    keys: Sequence[str],
    *,
    space: Space,
    scratch: Path,
    delete_processed: bool = False,
    keep_scratch: bool = False,
    limits: ReadLimits | None = None,
) -> DeltasAdded:
    """Register deltas by key, prefix or run record, then convert and commit all that are registered; safe to repeat.

    Without keys, go on with those that an interrupted call has registered. `scratch` is an own, empty folder; nothing
    is written elsewhere but to store and ledger. With `keep_scratch` what was unpacked stays there.

    Raises:
        Rejected: a key is not that of a delta, or nothing is stored under it, or a run record cannot be read; nothing
            was registered.
        OSError: the scratch folder cannot be written; what was registered stays so.
    """
    named = [each for key in keys for each in await resolve(key, context)]
    await _require_stored([key for key in keys if not key.endswith(RECORD)], context)
    finished = await _delete_committed(context)
    if found := [each for each in named if each not in finished]:
        await mark(context, found, WAITING)
        reached(DELTA_REGISTERED, deltas=len(found))
    done = DeltasAdded()
    waiting = await registered(context)
    reached(STAGE, stage="deltas", total=len(waiting))
    collections = set()
    for number, name in enumerate(waiting):
        folder = scratch / str(number)
        await asyncio.to_thread((folder / UNPACKED).mkdir, parents=True)
        try:
            await _convert(name, context, done, space=space, folder=folder, limits=limits or ReadLimits())
            done.committed.append(name)
            collections.add(collection_of(name))
        except UNREADABLE as error:  # the delta may be good: it stays registered
            done.refused.append(Problem(subject=name, reason=str(error)))
        except (Rejected, Misconfigured) as error:
            await _refuse(name, str(error), context, done)
        finally:
            if not keep_scratch:
                await asyncio.to_thread(shutil.rmtree, folder, ignore_errors=True)
        reached(PROGRESS, stage="deltas", done=1)
    stats = RunStats()
    for collection in sorted(collections):
        await commit_readable(collection, context, stats)
    done.versions |= stats.versions
    done.refused += stats.failures
    done.committed = [each for each in done.committed if collection_of(each) not in stats.unreadable]
    await mark(context, done.committed, COMMITTED if delete_processed else DONE)
    await _delete_committed(context)
    return done


async def _require_stored(keys: Sequence[str], context: Context) -> None:
    """Require that there is something under each key: a mistyped one is no delta that was refused.

    Raises:
        Rejected: there is not, and no earlier call has still to delete it.
    """
    committed = await registered(context, COMMITTED) if keys else []
    for key in keys:
        (name,) = await resolve(key, context)
        if name in committed:
            continue
        async for _ in context.store.list(name):
            break
        else:
            raise Rejected(f"{_missing(name)}: check the key, or let its producer write it again")


def _missing(name: str) -> str:
    return f"there is neither {name}/{ARCHIVE} nor a Chroma directory under {name}"


async def _delete_committed(context: Context) -> list[str]:
    """Delete the files of committed deltas, those too of a call that ended before it had, and return their names."""
    names = await registered(context, COMMITTED)
    for name in names:
        await context.store.delete([listed.key async for listed in context.store.list(name)])
    await mark(context, names, DONE)
    return names


async def _refuse(name: str, reason: str, context: Context, done: DeltasAdded) -> None:
    # The letter first: nobody would notice a delta that is done without one.
    letter = DeadLetter(
        kind="delta", owner=collection_of(name), subject=name, reason=reason, at=context.clock()
    )
    await context.ledger.dead_letters.add([letter])
    await mark(context, [name], DONE)
    reached(DEAD_LETTER, kind="delta", subject=name, reason=reason)
    done.refused.append(Problem(subject=name, reason=reason))


async def _convert(
    name: str, context: IndexContext, done: DeltasAdded, *, space: Space, folder: Path, limits: ReadLimits
) -> None:
    """Read a delta as a whole, then write its rows.

    Raises:
        Rejected: it cannot be accepted, with the reason; none of its rows was written.
        Misconfigured: its collection lives in another space.
    """
    collection = collection_of(name)
    live = await context.collections.get(collection)
    if live is not None and live.space.fingerprint != space.fingerprint:
        raise Rejected(
            f"collection {collection} has vectors of space {live.space.space8} ({live.space.model}), and deltas are"
            f" taken as of {space.space8} ({space.model})"
        )
    unpacked = folder / UNPACKED
    archive = await _download(name, context, folder, unpacked, limits)
    reader = ChromaDirectory(
        job=Job(
            folder=str(unpacked),
            archive="" if archive is None else str(archive),
            preferred=collection,
            page=PAGE,
            most_bytes=limits.unpacked_bytes,
            memory_bytes=limits.memory_bytes,
            seconds=limits.seconds,
        ),
        scratch=folder,
        idle=limits.idle,
    )
    # Twice: what is wrong with its last row has to be known before the first is written.
    count = 0
    async with contextlib.aclosing(reader.pages()) as pages:
        async for rows in pages:
            await _require_good(rows, space, collection, context)
            count += len(rows.ids)
    if not count:
        raise Rejected("it has no rows")
    reader = ChromaDirectory(
        job=Job(folder=str(unpacked), preferred=collection, page=PAGE, memory_bytes=limits.memory_bytes),
        scratch=folder,
        idle=limits.idle,
    )
    async with contextlib.aclosing(reader.pages()) as pages:
        async for rows in pages:
            wrote = await ingest(rows, context, collection=collection, space=space, strict=True, commit=False)
            done.rows += wrote.written
            done.unchanged += wrote.unchanged
    reached(DELTA_CONVERTED, delta=name)
    await context.ledger.dead_letters.remove("delta", owner=collection, subjects=[name])


async def _require_good(rows: PrecomputedRows, space: Space, collection: str, context: Context) -> None:
    _, problems = check_rows(rows, space)
    problems += await find_owned(rows.ids, collection, context)
    if problems:
        first = problems[0]
        more = f", and {len(problems) - 1:,} more rows of the same page" if len(problems) > 1 else ""
        raise Rejected(f"row {json.dumps(first.subject)[:200]}: {first.reason}{more}")


async def _download(
    name: str, context: Context, folder: Path, unpacked: Path, limits: ReadLimits
) -> Path | None:
    """Copy a delta into the folder: its archive, which is returned, or its loose files.

    Raises:
        Rejected: it is missing, too large, or has a file with a name outside the folder.
    """
    listed = sorted([each async for each in context.store.list(name)], key=lambda each: each.key)
    loose = [each for each in listed if is_wanted(each.key)]
    archives = [each for each in listed if each.key == f"{name}/{ARCHIVE}"]
    if not archives and not loose:
        raise Rejected(_missing(name))
    wanted = archives or loose
    if (size := sum(each.size for each in wanted)) > limits.stored_bytes:
        raise Rejected(f"it has {size:,} bytes, and at most {limits.stored_bytes:,} are read")
    for each in wanted:
        try:
            target = (
                folder / ARCHIVE if archives else unpacked / checked_name(each.key.removeprefix(f"{name}/"))
            )
        except RefusedError as error:
            raise Rejected(str(error)) from error
        await _copy(context.store.stream(each.key), target, most=limits.stored_bytes)
    return folder / ARCHIVE if archives else None


async def _copy(pieces: AsyncIterator[bytes], target: Path, *, most: int) -> None:
    await asyncio.to_thread(target.parent.mkdir, parents=True, exist_ok=True)
    with await asyncio.to_thread(target.open, "xb") as file:
        async for piece in pieces:
            most -= len(piece)
            if most < 0:
                raise Rejected("it has grown while it was read")
            await asyncio.to_thread(file.write, piece)
