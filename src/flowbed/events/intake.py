"""Take in batch files that events or a listing tell of: Flowbed's own, and those of other programs."""

from __future__ import annotations

import asyncio
import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from flowbed.chunking import Rules
from flowbed.errors import Error, Rejected, Transient
from flowbed.ledger import DeadLetter
from flowbed.pipeline import ConfiguredSource
from flowbed.pipeline.sync import check_space, sync
from flowbed.records import Problem
from flowbed.records.events import Handled
from flowbed.records.external import external_source, is_external
from flowbed.sources.external import ExternalBatches, ExternalFile
from flowbed.storage import bucket_of
from flowbed.storage.keys import checked

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Collection, Mapping

    from flowbed.events.notifications import Created, Notifications
    from flowbed.lanes.contexts import ModelContext
    from flowbed.ledger import BatchRow

# {source}/chunked/.../NAME.json or NAME.json.zst; unfinished files begin with a dot, or end in .tmp.
LAYOUT = re.compile(r"\A(?P<source>[^/]+)/chunked/(?P<name>(?:[^/]+/)*[^./][^/]*?)\.json(?:\.zst)?")
OWN = re.compile(r"\A(?:.*/)?batch_([0-9a-f]{64})")
# Seconds before each retry of the files that cannot be read: their writers may not have finished them.
RETRIES = (1.0, 4.0)
# A fetch records a batch file in the ledger at once after writing it. One that is not recorded after this time (µs)
# belongs to a fetch that was killed, and will be written again.
UNRECORDED = 15 * 60 * 1_000_000
# Files looked up in the ledger at once.
AT_ONCE = 1_000
LETTER = "batch"


@dataclass
class _Unread:
    """A file that could not be read so far, with the reasons; `message` is that of the queue that told of it."""

    key: str
    source: str
    etag: str
    problems: list[Problem]
    transient: bool
    message: str = ""


@dataclass
class Intake:
    """What was done with the batch files that were told of.

    `batches` can be embedded; `read` files of other programs were new, with so many `chunks`; `already` were
    known. `later` files belong to a
    fetch under way. `ignored` counts by reason, `failures` say what could not be taken in, and `failed` names the
    queue's messages to send again. `unread` files are tried again once all others were.
    """

    batches: set[str] = field(default_factory=set)
    read: int = 0
    chunks: int = 0
    already: int = 0
    later: list[str] = field(default_factory=list)
    ignored: dict[str, int] = field(default_factory=dict)
    failures: list[Problem] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)
    unread: list[_Unread] = field(default_factory=list)

    def ignore(self, reason: str) -> None:
        """Count what needs no work."""
        self.ignored[reason] = self.ignored.get(reason, 0) + 1

    def handled(self) -> Handled:
        """Return this as a record."""
        return Handled(
            batches=len(self.batches),
            read=self.read,
            already=self.already,
            later=tuple(self.later),
            ignored=self.ignored,
            failures=tuple(self.failures),
            messages=tuple(dict.fromkeys(self.failed)),
            batch_ids=tuple(sorted(self.batches)),
        )


@dataclass(frozen=True, kw_only=True)
class IntakeContext:
    """What taking in works with; `collections` are those of the configured sources, by source.

    `is_name` says whether a text can be the name of a source or collection; `pause` waits for seconds.
    """

    context: ModelContext
    collections: Mapping[str, str]
    is_name: Callable[[str], bool]
    pause: Callable[[float], Awaitable[None]] = asyncio.sleep


async def take_in(told: Notifications, on: IntakeContext) -> Intake:
    """Take in the objects that an event tells of; safe to repeat, in any order. One that fails stops no other."""
    done = Intake(ignored=dict(told.ignored), failures=list(told.problems), failed=list(told.failed))
    for each in told.created:
        keys = _keys_of(each, on.context.store.url)
        if not keys:
            done.ignore(_why_ignored(each, on.context.store.url))
            continue
        before, unread = (len(done.failures), len(done.later)), len(done.unread)
        for key in keys:
            try:
                if await _take_one(key, on, done):
                    break
            except Rejected as error:
                await _refuse(key, str(error), on, done)
                break
        else:
            done.ignore("deleted meanwhile")
        if each.message and (len(done.failures), len(done.later)) != before:
            done.failed.append(each.message)
        for file in done.unread[unread:]:
            file.message = each.message
    await _read_again(on, done)
    return done


async def take_again(keys: Collection[str], on: IntakeContext) -> Intake:
    """Read batch files of other programs again, whose dead letters this replaces."""
    done = Intake()
    for key in keys:
        source = key.partition("/")[0]
        try:
            _check_name(source, on)
        except Rejected as error:
            await _refuse(key, str(error), on, done)
            continue
        await _take_external(key, source, f"told at {on.context.clock()}", on, done)
    await _read_again(on, done)
    return done


async def look_for_batches(on: IntakeContext) -> Intake:
    """List the batch files of the store, and take in those that no event told of."""
    done = Intake()
    store, letters = on.context.store, await _letters(on)
    for source in await store.folders(""):
        if not on.is_name(source):
            continue  # what Flowbed writes under other names is in the ledger before it is in the store
        some: dict[str, str] = {}
        async for listed in store.list(f"{source}/chunked"):
            if LAYOUT.fullmatch(listed.key) and letters.get(listed.key, -1) < listed.modified:
                some[listed.key] = f"{listed.size}-{listed.modified}"
            if len(some) >= AT_ONCE:
                await _take_unknown(source, some, on, done)
                some = {}
        await _take_unknown(source, some, on, done)
    await _read_again(on, done)
    return done


async def _letters(on: IntakeContext) -> dict[str, int]:
    """Return when (µs) each file became a dead letter: it is read again by command, or once it changes."""
    pages = on.context.ledger.dead_letters.pages()
    return {letter.subject: letter.at async for page in pages for letter in page if letter.kind == LETTER}


async def _take_unknown(source: str, files: Mapping[str, str], on: IntakeContext, done: Intake) -> None:
    """Take in those of the files, by key with their etags, that the ledger does not know in this state."""
    own = {key: found[1] for key in files if (found := OWN.fullmatch(name_of(key)))}
    known = await on.context.ledger.batches.get(set(own.values())) if own else {}
    others = [key for key in files if key not in own or own[key] not in known]
    rules = _rules(source, on)
    etags = (
        await on.context.ledger.documents.etags(rules.source, list(map(name_of, others))) if others else {}
    )
    for key in others:
        if etags.get(name_of(key)) != f"{rules.fingerprint}:{files[key]}":
            await _take_external(key, source, files[key], on, done)


async def _take_one(key: str, on: IntakeContext, done: Intake) -> bool:
    """Take in one file; return whether it is there, or is none to look for."""
    match = LAYOUT.fullmatch(checked(key))
    if match is None:
        done.ignore("not a batch file")
        return True
    source = match["source"]
    own = OWN.fullmatch(match["name"])
    if own is not None:
        row = (await on.context.ledger.batches.get([own[1]])).get(own[1])
        if row is not None and row.key == key:
            await _take_own(row, on, done)
            return True
    if not on.is_name(source):
        if is_external(source) or "." in source:
            done.ignore("written by a fetch that was killed")
            return True
        _check_name(source, on)
    # The file may have been written again: it is always read.
    return await _take_external(key, source, f"told at {on.context.clock()}", on, done)


def _check_name(source: str, on: IntakeContext) -> None:
    if not on.is_name(source):
        raise Rejected(f"{source!r} cannot be the name of a source: use lower-case letters, digits, - and _")


async def _refuse(key: str, reason: str, on: IntakeContext, done: Intake) -> None:
    """Record a file that cannot be taken in."""
    done.failures.append(Problem(subject=key, reason=reason))
    letter = DeadLetter(
        kind=LETTER, owner=key.partition("/")[0], subject=key, reason=reason, at=on.context.clock()
    )
    await on.context.ledger.dead_letters.add([letter])


async def _take_own(row: BatchRow, on: IntakeContext, done: Intake) -> None:
    """Queue a batch file that a fetch wrote, if its chunks are recorded."""
    if await on.context.ledger.chunks.used([row.id]):
        done.batches.add(row.id)
    elif on.context.clock() - row.timestamp < UNRECORDED:
        done.later.append(row.key)
    else:
        done.ignore("replaced by a later batch file")


async def _take_external(key: str, source: str, etag: str, on: IntakeContext, done: Intake) -> bool:
    """Read a batch file of another program, and write its chunks as batch files of Flowbed's own.

    Returns False if there is no such file. One that cannot be read is tried again by `_read_again`.
    """
    problems, transient, is_there = await _read(key, source, etag, on, done)
    if any(each.subject == key for each in problems):
        done.unread.append(_Unread(key, source, etag, problems, transient))
    elif problems:
        await _failed(key, source, problems, 1, on, done)
    return is_there


async def _read_again(on: IntakeContext, done: Intake) -> None:
    """Try the files that could not be read twice more, all of them after each pause; then they have failed."""
    for attempts, wait in enumerate(RETRIES, start=2):
        if not done.unread:
            return
        await on.pause(wait)
        left, done.unread = done.unread, []
        for file in left:
            file.problems, file.transient, _ = await _read(file.key, file.source, file.etag, on, done)
            if any(each.subject == file.key for each in file.problems):
                done.unread.append(file)
            elif file.problems:
                await _failed(file.key, file.source, file.problems, attempts, on, done, message=file.message)
    left, done.unread = done.unread, []
    for file in left:
        if file.transient:  # the next listing finds it
            done.failures += file.problems
            done.failed += [file.message] if file.message else []
            continue
        attempts = 1 + len(RETRIES)
        await _failed(file.key, file.source, file.problems, attempts, on, done, message=file.message)


async def _read(
    key: str, source: str, etag: str, on: IntakeContext, done: Intake
) -> tuple[list[Problem], bool, bool]:
    """Read a file; return its problems, whether these may pass, and whether it is there."""
    context = on.context
    written: list[BatchRow] = []
    file = ExternalFile(key, name_of(key), etag)
    feed = ConfiguredSource(
        source=ExternalBatches(context.store, [file], is_collection=on.is_name), rules=_rules(source, on)
    )
    gone = transient = False
    try:
        await check_space(feed, context)
        synced = await sync(feed, context, allow_deletes=False, wrote=written.append, troubled=False)
        problems = [each for each in synced.problems if not each.skipped]
        gone = len(problems) < len(synced.problems)
    except Error as error:
        problems = [Problem(subject=key, reason=str(error))]
        transient = isinstance(error, Transient)
    done.batches.update(row.id for row in written)
    done.chunks += sum(row.chunks for row in written)
    done.read += bool(written)
    done.already += not (written or problems or gone)
    if not any(each.subject == key for each in problems):
        await context.ledger.dead_letters.remove(LETTER, owner=source, subjects=[key])
    return problems, transient, not gone


async def _failed(
    key: str,
    source: str,
    problems: list[Problem],
    attempts: int,
    on: IntakeContext,
    done: Intake,
    *,
    message: str = "",
) -> None:
    """Record what could not be taken in of a file."""
    done.failures += problems
    done.failed += [message] if message else []
    first, more = problems[0], len(problems) - 1
    reason = f"{first.subject}: {first.reason}" if first.subject != key else first.reason
    letter = DeadLetter(
        kind=LETTER,
        owner=source,
        subject=key,
        reason=reason + (f" (and {more:,} more)" if more else ""),
        at=on.context.clock(),
        attempts=attempts,
    )
    await on.context.ledger.dead_letters.remove(LETTER, owner=source, subjects=[key])
    await on.context.ledger.dead_letters.add([letter])


def _rules(source: str, on: IntakeContext) -> Rules:
    return Rules(source=external_source(source), collections=(on.collections.get(source, source),))


def name_of(key: str) -> str:
    """Return the id of the document that a batch file is: its key below `chunked`, without its endings."""
    return key.partition("/chunked/")[2].removesuffix(".zst").removesuffix(".json")


def _keys_of(told: Created, url: str) -> list[str]:
    """Return the keys below the store's root that an event may mean; none for another bucket, or above the root."""
    bucket, prefix = bucket_of(url)
    if bucket and told.bucket != bucket:
        return []
    below = [key.removeprefix(prefix) for key in told.keys if key.startswith(prefix)]
    return [key for key in below if LAYOUT.fullmatch(key)] or below[:1]


def _why_ignored(told: Created, url: str) -> str:
    bucket, prefix = bucket_of(url)
    if told.bucket != bucket:
        return f"in bucket {told.bucket[:100]!r}, not in {bucket}"
    return f"not below {prefix}"
