"""Staged plans: what `plan` writes under `plans/{plan_id}/`, and `run --plan` reads.

plans/{plan_id}/plan.json                      the plan: written last, and never changed
plans/{plan_id}/{source}/rows_{sha256}.json    the ledger rows of one part of a fetch
plans/{plan_id}/{source}/batch_{id}.json       its batch file, byte for byte
plans/{plan_id}/{source}/released.json         every part of the source is in the ledger
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import re
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, TypeVar

import orjson

from flowbed.errors import Conflict, NotFound, Rejected
from flowbed.ledger import BatchRow, ChunkRow, DocumentRow
from flowbed.pipeline.sync import Prepared
from flowbed.records import Planned, Problem, canonical
from flowbed.telemetry import PLAN_STAGED, PLAN_WRITTEN, reached

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    from flowbed.storage import Store

Answer = TypeVar("Answer")

PLANS = "plans"
FORMAT = 1
# An older plan is not run any more, and may be removed: prices, sources and models have changed.
KEPT_DAYS = 7
KEPT = KEPT_DAYS * 86_400_000_000  # µs
# Objects removed in one request.
REMOVED_AT_ONCE = 1_000

_ID = re.compile(r"[0-9a-f]{16}")
_WRITTEN = ("collection", "id", "document", "ordinal", "tokens", "text_hash", "row_hash", "version")
_DELETED = ("collection", "id", "document", "ordinal", "version")


@dataclass(frozen=True, kw_only=True)
class Part:
    """A part of a fetch: the name of its rows, its batch file if it has one, and how many documents it fetched."""

    rows: str
    batch: BatchRow | None
    fetched: int


@dataclass(frozen=True, kw_only=True)
class StagedSource:
    """The part of a plan about one source.

    `value` and `token` are the cursor as it was read, `after` its value once everything is released. `rules` is the
    fingerprint of the chunking rules. `complete` says that everything was listed, so that the problems are all there
    are; `empty` why no documents were.
    """

    value: str
    token: int
    after: str
    rules: str
    complete: bool
    problems: tuple[Problem, ...]
    withheld: str
    parts: tuple[Part, ...]
    empty: str = ""


@dataclass(frozen=True, kw_only=True)
class StagedPlan:
    """A plan in the store. `waiting` are batches that earlier runs left; `created` is µs since 1970."""

    plan_id: str
    created: int
    space: str
    model: str
    planned: Planned
    sources: Mapping[str, StagedSource]
    waiting: tuple[str, ...]


class Draft:
    """Parts of a plan whose id is not known yet, kept in a local folder."""

    def __init__(self, folder: Path) -> None:
        """Start with an empty folder."""
        self._folder = folder

    async def add(self, prepared: Prepared, *, fetched: int) -> Part:
        """Keep one part."""
        rows = canonical(_rows(prepared))
        part = Part(rows=hashlib.sha256(rows).hexdigest(), batch=prepared.batch, fetched=fetched)
        await asyncio.to_thread(self._write, part, rows, prepared)
        return part

    def _write(self, part: Part, rows: bytes, prepared: Prepared) -> None:
        (self._folder / part.rows).write_bytes(rows)
        if part.batch is not None:
            (self._folder / part.batch.id).write_bytes(prepared.body(part.batch))

    async def stage(self, store: Store, plan: StagedPlan) -> None:
        """Write the plan; one that exists is kept, unless it cannot be run any more."""
        try:
            if await _is_complete(store, plan.plan_id, now=plan.created):
                return
        except Rejected:  # too old or damaged: replace it
            await drop_plans(store, [plan.plan_id])
        for name, source in plan.sources.items():
            for part in source.parts:
                await self._put(store, _rows_key(plan.plan_id, name, part), part.rows)
                if part.batch is not None:
                    await self._put(store, _batch_key(plan.plan_id, name, part.batch.id), part.batch.id)
                reached(PLAN_STAGED, plan=plan.plan_id, source=name)
        # Of two processes that stage the same plan, one names its parts here, and those of the other are never read.
        with contextlib.suppress(Conflict):
            await store.create(_key(plan.plan_id), canonical({"format": FORMAT, **asdict(plan)}))
        reached(PLAN_WRITTEN, plan=plan.plan_id)

    async def _put(self, store: Store, key: str, name: str) -> None:
        body = await asyncio.to_thread((self._folder / name).read_bytes)
        with contextlib.suppress(Conflict):  # named by its content
            await store.create(key, body)


async def read_plan(store: Store, plan_id: str, *, now: int) -> StagedPlan:
    """Read a staged plan.

    Raises:
        NotFound: there is none of that id.
        Rejected: it is too old to be run, or damaged.
    """
    unknown = f"no plan is called {plan_id!r}; `flowbed plan` makes one, and says its id"
    if not _ID.fullmatch(plan_id):
        raise NotFound(unknown)
    try:
        body = (await store.get(_key(plan_id))).body
    except NotFound as error:
        raise NotFound(unknown) from error
    plan = _read(plan_id, body, _plan)
    if now - plan.created > KEPT:
        day = datetime.fromtimestamp(plan.created / 1e6, UTC).strftime("%Y-%m-%d")
        raise Rejected(
            f"plan {plan_id} is of {day}, more than {KEPT_DAYS} days ago; make another with `flowbed plan`"
        )
    return plan


async def read_part(store: Store, plan_id: str, source: str, part: Part) -> Prepared:
    """Read one part, ready to be applied.

    Raises:
        Rejected: it is missing or damaged.
    """
    said = await _read_rows(store, plan_id, source, part)
    body = b""
    if part.batch is not None:
        body = await _get(store, plan_id, _batch_key(plan_id, source, part.batch.id))
    return _read(plan_id, said, lambda rows: _prepared(source, part, rows, body))


async def read_documents(
    store: Store, plan_id: str, source: str, part: Part
) -> tuple[dict[str, str], tuple[str, ...]]:
    """Read the hashes of the documents that one part writes, and the documents that it removes.

    Raises:
        Rejected: it is missing or damaged.
    """
    said = await _read_rows(store, plan_id, source, part)
    return _read(
        plan_id,
        said,
        lambda rows: ({row[0]: row[2] for row in rows["documents"]}, tuple(rows["removed"])),
    )


async def released(store: Store, plan_id: str, source: str) -> int | None:
    """Read the cursor's token after the release of a source; None where it is not complete."""
    try:
        body = (await store.get(_released_key(plan_id, source))).body
    except NotFound:
        return None
    return int(orjson.loads(body)["token"])


async def mark_released(store: Store, plan_id: str, source: str, *, token: int) -> None:
    """Record that every part of a source is in the ledger; safe to repeat."""
    with contextlib.suppress(Conflict):
        await store.create(_released_key(plan_id, source), canonical({"token": token}))


async def expired_plans(store: Store, *, now: int) -> list[str]:
    """Return the staged plans, complete or not, that are too old to be run; `now` is µs since 1970."""
    expired = []
    for name in await store.folders(PLANS):
        try:
            created = int(orjson.loads((await store.get(_key(name))).body)["created"])
        except (NotFound, ValueError, KeyError, TypeError):
            # Staging it was interrupted, or is under way: the newest part gives its time.
            created = max([each.modified async for each in store.list(f"{PLANS}/{name}")], default=now)
        if now - created > KEPT:
            expired.append(name)
    return expired


async def drop_plans(store: Store, plans: Sequence[str]) -> int:
    """Delete staged plans, and return the number of objects deleted; chunks that they released are kept."""
    removed = 0
    for name in plans:
        await store.delete([_key(name)])  # first, so that no run starts half a plan
        keys = [each.key async for each in store.list(f"{PLANS}/{name}")]
        for start in range(0, len(keys), REMOVED_AT_ONCE):
            await store.delete(keys[start : start + REMOVED_AT_ONCE])
        removed += len(keys) + 1
    return removed


def _key(plan_id: str) -> str:
    return f"{PLANS}/{plan_id}/plan.json"


def _rows_key(plan_id: str, source: str, part: Part) -> str:
    return f"{PLANS}/{plan_id}/{source}/rows_{part.rows}.json"


def _batch_key(plan_id: str, source: str, batch: str) -> str:
    return f"{PLANS}/{plan_id}/{source}/batch_{batch}.json"


def _released_key(plan_id: str, source: str) -> str:
    return f"{PLANS}/{plan_id}/{source}/released.json"


async def _read_rows(store: Store, plan_id: str, source: str, part: Part) -> bytes:
    body = await _get(store, plan_id, _rows_key(plan_id, source, part))
    if hashlib.sha256(body).hexdigest() != part.rows:
        raise Rejected(
            f"plan {plan_id} is damaged: {part.rows} is not what was staged; make another with `flowbed plan`"
        )
    return body


async def _get(store: Store, plan_id: str, key: str) -> bytes:
    try:
        return (await store.get(key)).body
    except NotFound as error:
        raise Rejected(
            f"part of plan {plan_id} is missing ({key}); make another with `flowbed plan`"
        ) from error


async def _is_complete(store: Store, plan_id: str, *, now: int) -> bool:
    """Tell whether every part of a plan is there; raise `Rejected` where it is and cannot be run."""
    try:
        plan = await read_plan(store, plan_id, now=now)
    except NotFound:  # or another process is staging it, and writes plan.json last
        return False
    for name, source in plan.sources.items():
        for part in source.parts:
            await read_part(store, plan_id, name, part)
    return True


def _read(plan_id: str, body: bytes, make: Callable[[dict[str, Any]], Answer]) -> Answer:
    try:
        return make(orjson.loads(body))
    except (ValueError, KeyError, TypeError) as error:
        raise Rejected(
            f"plan {plan_id} cannot be read ({error}); make another with `flowbed plan`"
        ) from error


def _plan(said: dict[str, Any]) -> StagedPlan:
    if said.pop("format") != FORMAT:
        raise ValueError("it was made by another version")
    sources = {name: _source(each) for name, each in said.pop("sources").items()}
    planned, waiting = Planned(**said.pop("planned")), tuple(said.pop("waiting"))
    return StagedPlan(**said, planned=planned, sources=sources, waiting=waiting)


def _source(said: dict[str, Any]) -> StagedSource:
    problems = tuple(Problem(**each) for each in said.pop("problems"))
    parts = tuple(_part(each) for each in said.pop("parts"))
    return StagedSource(**said, problems=problems, parts=parts)


def _part(said: dict[str, Any]) -> Part:
    batch = said.pop("batch")
    return Part(**said, batch=BatchRow(**batch) if batch else None)


def _rows(prepared: Prepared) -> dict[str, Any]:
    """Encode rows as lists: names repeated in each of a million rows would be half of the bytes."""
    return {
        "documents": [
            [each.id, each.etag, each.hash, each.chunks, each.generation] for each in prepared.documents
        ],
        "removed": prepared.removed,
        "written": [[getattr(row, name) for name in _WRITTEN] for row in prepared.chunks if not row.deleted],
        "deleted": [[getattr(row, name) for name in _DELETED] for row in prepared.chunks if row.deleted],
    }


def _prepared(source: str, part: Part, said: dict[str, Any], body: bytes) -> Prepared:
    names = ("id", "etag", "hash", "chunks", "generation")
    batch = part.batch.id if part.batch else ""
    written = [
        ChunkRow(source=source, batch=batch, **dict(zip(_WRITTEN, row, strict=True)))
        for row in said["written"]
    ]
    gone: dict[str, Any] = {"tokens": 0, "text_hash": "", "row_hash": "", "batch": "", "deleted": True}
    deleted = [
        ChunkRow(source=source, **gone, **dict(zip(_DELETED, row, strict=True))) for row in said["deleted"]
    ]
    return Prepared(
        value="",
        documents=tuple(
            DocumentRow(source=source, **dict(zip(names, row, strict=True))) for row in said["documents"]
        ),
        removed=tuple(said["removed"]),
        chunks=(*written, *deleted),
        batch=part.batch,
        body=lambda _: body,
    )
