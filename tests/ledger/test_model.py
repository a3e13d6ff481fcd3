"""A sequence of swaps, claims, records and commits leaves in every ledger what it leaves in a dict."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hypothesis import given, settings
from hypothesis import strategies as st

from flowbed.errors import Conflict
from flowbed.ledger import ChunkRow, Cursor, DocumentRow, Swap, open_ledger
from flowbed.records import Status
from flowbed.testing.ledger import chunk, document, flat, run
from flowbed.testing.ledger.rows import settle
from flowbed.testing.limited import LimitedLedger, limited_table

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from flowbed.ledger import Ledger
    from flowbed.testing.postgres import PostgresServer


class Both:
    """A ledger, and the dicts that should hold the same; every step does the same to both."""

    def __init__(self, ledger: Ledger) -> None:
        self.ledger = ledger
        self.token = 0
        self.documents: dict[str, DocumentRow] = {}
        self.chunks: dict[str, ChunkRow] = {}
        self.runs: dict[str, str] = {}

    async def swap(
        self,
        *,
        stale: bool,
        hashes: dict[str, str],
        removed: set[str],
        rows: dict[str, tuple[int, str, bool]],
    ) -> None:
        swap = Swap(
            cursor=Cursor(source="s", token=self.token - stale),
            value="v",
            documents=[document(name, hash=hash_) for name, hash_ in hashes.items()],
            removed=sorted(removed - hashes.keys()),
            chunks=[
                chunk(name, version=version, row_hash=row_hash, deleted=deleted)
                for name, (version, row_hash, deleted) in rows.items()
            ],
        )
        try:
            await self.ledger.documents.swap(swap)
        except Conflict:
            assert stale
            return
        assert not stale
        self.token += 1
        for name in swap.removed:
            self.documents.pop(name, None)
        self.documents.update({row.id: row for row in swap.documents})
        self.chunks.update({row.id: self.grown(row) for row in swap.chunks})

    def grown(self, row: ChunkRow) -> ChunkRow:
        old = self.chunks.get(row.id)
        if old is None or row.version > old.version:
            return row
        same = (old.version, old.row_hash, old.deleted) == (row.version, row.row_hash, row.deleted)
        return row if same else replace(row, version=old.version + 1)

    async def claim(self, worker: str) -> None:
        await self.ledger.chunks.claim("b", [Status.NONE], worker=worker, now=1, until=9, sources=(), limit=9)
        self.change({"status": Status.NONE}, status=Status.PENDING, worker=worker, until=9, run="")

    async def release(self, worker: str) -> None:
        held = {"status": Status.PENDING, "worker": worker, "run": ""}
        released = self.change(held, status=Status.NONE, worker="", until=0)
        assert await self.ledger.chunks.release(worker) == len(released)

    async def record(self, worker: str, into: str) -> None:
        held = {"status": Status.PENDING, "worker": worker, "run": ""}
        taken = [(row.id, row.version) for row in self.change(held, run=into, until=0)]
        await self.ledger.runs.record(run(into), taken, worker=worker)
        if taken or into not in self.runs:
            self.runs[into] = "pending"

    async def commit(self, into: str) -> None:
        await self.ledger.runs.commit([into], version=1)
        self.change({"status": Status.PENDING, "run": into}, status=Status.SUCCESS, worker="")
        if into in self.runs:
            self.runs[into] = "committed"

    async def refuse(self, into: str) -> None:
        await self.ledger.runs.refuse(into, reason="why")
        refused = {"status": Status.FAILED, "worker": "", "failure": "rejected", "error": "why"}
        for row in self.change({"status": Status.PENDING, "run": into}, **refused):
            self.chunks[row.id] = replace(row, attempts=row.attempts + 1)
        if self.runs.get(into) == "pending":
            self.runs[into] = "refused"

    async def retry(self, now: int) -> None:
        failed = self.change({"status": Status.FAILED}, status=Status.NONE, run="", failure="", error="")
        for row in failed:
            self.chunks[row.id] = replace(row, version=max(row.version + 1, now))
        assert await self.ledger.chunks.retry([], now=now) == len(failed)

    def change(self, when: dict[str, Any], **to: Any) -> list[ChunkRow]:
        """Change the chunks whose fields are as in `when`, and return them."""
        rows = [row for row in self.chunks.values() if when.items() <= vars(row).items()]
        changed = [replace(row, **to) for row in rows]
        self.chunks.update({row.id: row for row in changed})
        return changed

    async def compare(self) -> None:
        assert (await self.ledger.documents.cursor("s")).token == self.token
        assert {row.id: row for row in await flat(self.ledger.documents.pages("s"))} == self.documents
        assert {row.id: row for row in await self.ledger.chunks.of("s", ["d"])} == self.chunks
        assert {row.id: row.state for row in await self.ledger.runs.recent(limit=9)} == self.runs
        pending = {id_ for id_, state in self.runs.items() if state == "pending"}
        assert {row.id for row in await self.ledger.runs.pending("c", limit=9)} == pending


NAMES = st.sampled_from(["a", "b", "c"])
WORKERS = st.sampled_from(["w", "v"])
RUNS = st.sampled_from(["r1", "r2"])
ROWS = st.tuples(st.integers(1, 5), st.sampled_from(["r1", "r2"]), st.booleans())


def step(does: Callable[..., Awaitable[None]], **given_: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.builds(partial, st.just(does), **given_)


STEPS = st.one_of(
    step(
        Both.swap,
        stale=st.booleans(),
        hashes=st.dictionaries(NAMES, st.sampled_from(["h1", "h2"])),
        removed=st.sets(NAMES),
        rows=st.dictionaries(NAMES, ROWS),
    ),
    step(Both.claim, worker=WORKERS),
    step(Both.release, worker=WORKERS),
    step(Both.record, worker=WORKERS, into=RUNS),
    step(Both.commit, into=RUNS),
    step(Both.refuse, into=RUNS),
    step(Both.retry, now=st.integers(1, 9)),
)


SEQUENCES = st.lists(STEPS, max_size=12)
Steps = list["Callable[[Both], Awaitable[None]]"]


async def check(ledger: Ledger, steps: Steps) -> None:
    """Take steps on an empty ledger, and compare it with the model."""
    try:
        both = Both(ledger)
        for each in steps:
            await settle(ledger)
            await each(both)
        await settle(ledger)
        await both.compare()
    finally:
        await ledger.close()


@given(SEQUENCES)
def test_a_ledger_in_sqlite_is_a_dict_that_lasts(steps: Steps) -> None:
    """After any sequence of steps, cursor, documents, chunks and runs are those of a model in memory."""

    async def take() -> None:
        await check(await open_ledger(":memory:", folder=Path(), new_id="i"), steps)

    asyncio.run(take())


@given(SEQUENCES)
def test_a_ledger_in_a_limited_table_is_a_dict_that_lasts(steps: Steps) -> None:
    """The same holds where a table grants no more than DynamoDB does."""
    asyncio.run(check(LimitedLedger(limited_table(lag=5), id="i"), steps))


@settings(max_examples=20)  # each has a database of its own
@given(SEQUENCES)
def test_a_ledger_on_postgres_is_a_dict_that_lasts(
    postgres: PostgresServer, template: str, steps: Steps
) -> None:
    """The same holds on Postgres."""
    url = postgres.database(like=template)

    async def take() -> None:
        await check(await open_ledger(url, folder=Path(), new_id="i"), steps)

    asyncio.run(take())
    postgres.drop(url)
