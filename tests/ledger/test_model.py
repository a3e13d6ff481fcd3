"""Any sequence of swaps, claims, submissions, records and commits has the same result in every ledger as in a dict."""

from __future__ import annotations

import asyncio
import secrets
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.support.aws.dynamodb import address

from flowbed.errors import Conflict
from flowbed.ledger import ChunkRow, Cursor, DocumentRow, Swap
from flowbed.ledger.dynamodb import open_dynamodb
from flowbed.ledger.memory import MemoryLedger, memory_table
from flowbed.records import Status
from flowbed.testing.ledger import chunk, document, flat, run, submission
from flowbed.testing.ledger.rows import settle

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from tests.ledger.conftest import EmptyLedger

    from flowbed.ledger import Ledger
    from flowbed.testing.aws import Emulator


WITH_NOBODY = {"status": Status.PENDING, "worker": "", "run": ""}
BACK = {"status": Status.NONE, "worker": "", "until": 0, "submission": ""}


class Both:
    """A ledger and dicts with the expected contents; every step changes both."""

    def __init__(self, ledger: Ledger) -> None:
        self.ledger = ledger
        self.token = 0
        self.documents: dict[str, DocumentRow] = {}
        self.chunks: dict[str, ChunkRow] = {}
        self.runs: dict[str, str] = {}
        self.submissions: dict[str, bool] = {}
        """Whether each is live."""

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
        return row if same else row._replace(version=old.version + 1)

    async def claim(self, worker: str, into: str) -> None:
        await self.ledger.chunks.claim(
            ["b"], [Status.NONE], worker=worker, now=1, until=9, sources=(), limit=9, submission=into
        )
        claimed = {"status": Status.PENDING, "worker": worker, "until": 9, "run": "", "submission": into}
        self.change({"status": Status.NONE}, **claimed)
        for over in [name for name, live in self.submissions.items() if not live]:
            self.change({**WITH_NOBODY, "submission": over}, **claimed)

    async def bind(self, worker: str, into: str) -> None:
        held = self.change({"status": Status.PENDING, "worker": worker, "run": ""}, submission=into)
        await self.ledger.chunks.bind(held, worker=worker, submission=into)

    async def create(self, into: str) -> None:
        await self.ledger.submissions.create(submission(into))
        self.submissions.setdefault(into, True)

    async def hand_over(self, worker: str, into: str) -> None:
        left = self.leave(worker, into)
        assert await self.ledger.chunks.hand_over(into, worker=worker) == len(left)

    async def take(self, worker: str, into: str) -> None:
        taken = (
            self.change({**WITH_NOBODY, "submission": into}, worker=worker, until=9)
            if self.live(into)
            else []
        )
        found = await self.ledger.chunks.take(into, worker=worker, now=1, until=9, limit=9)
        assert found == sorted(taken, key=lambda row: row.id)

    async def let_go(self, into: str) -> None:
        gone = self.change({"status": Status.PENDING, "run": "", "submission": into}, **BACK)
        assert await self.ledger.chunks.let_go(into) == len(gone)

    async def end(self, into: str) -> None:
        row = await self.ledger.submissions.hold(into, worker="e", now=1, until=9)
        assert (row is not None) == self.live(into)
        if row is not None:
            assert await self.ledger.submissions.save(replace(row, ended=5), worker="e")
            self.submissions[into] = False

    def live(self, into: str) -> bool:
        return self.submissions.get(into, False)

    def leave(self, worker: str, into: str) -> list[ChunkRow]:
        held = {"status": Status.PENDING, "worker": worker, "run": "", "submission": into}
        return self.change(held, worker="", until=0) if self.live(into) else []

    async def release(self, worker: str) -> None:
        released = [row for into in self.submissions for row in self.leave(worker, into)]
        released += self.change({"status": Status.PENDING, "worker": worker, "run": ""}, **BACK)
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
            self.chunks[row.id] = row._replace(attempts=row.attempts + 1)
        if self.runs.get(into) == "pending":
            self.runs[into] = "refused"

    async def retry(self, now: int) -> None:
        again = {"status": Status.NONE, "run": "", "submission": "", "failure": "", "error": ""}
        failed = self.change({"status": Status.FAILED}, **again)
        for row in failed:
            self.chunks[row.id] = row._replace(version=max(row.version + 1, now))
        assert await self.ledger.chunks.retry([], now=now) == len(failed)

    def change(self, when: dict[str, Any], **to: Any) -> list[ChunkRow]:
        """Change the chunks whose fields are as in `when`, and return them."""
        rows = [row for row in self.chunks.values() if when.items() <= row._asdict().items()]
        changed = [row._replace(**to) for row in rows]
        self.chunks.update({row.id: row for row in changed})
        return changed

    async def compare(self) -> None:
        assert (await self.ledger.documents.cursor("s")).token == self.token
        assert {row.id: row for row in await flat(self.ledger.documents.pages("s"))} == self.documents
        assert {row.id: row for row in await self.ledger.chunks.of("s", ["d"])} == self.chunks
        assert {row.id: row.state for row in await self.ledger.runs.recent(limit=9)} == self.runs
        live = [row.id async for page in self.ledger.submissions.pages(live=True) for row in page]
        assert live == sorted(filter(self.live, self.submissions))
        making = {
            row.submission
            for row in self.chunks.values()
            if row.status is Status.PENDING and not row.run and row.submission not in self.submissions
        }
        found = (await self.ledger.chunks.in_flight(["t"], besides={"y"})).gathered
        assert found == ({"t"} if making - {"", "y"} else set())
        pending = {id_ for id_, state in self.runs.items() if state == "pending"}
        assert {row.id for row in await self.ledger.runs.pending("c", limit=9)} == pending


NAMES = st.sampled_from(["a", "b", "c"])
WORKERS = st.sampled_from(["w", "v"])
RUNS = st.sampled_from(["r1", "r2"])
SUBMISSIONS = st.sampled_from(["x", "y"])
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
    step(Both.claim, worker=WORKERS, into=st.sampled_from(["", "x", "y"])),
    step(Both.bind, worker=WORKERS, into=SUBMISSIONS),
    step(Both.create, into=SUBMISSIONS),
    step(Both.hand_over, worker=WORKERS, into=SUBMISSIONS),
    step(Both.take, worker=WORKERS, into=SUBMISSIONS),
    step(Both.let_go, into=SUBMISSIONS),
    step(Both.end, into=SUBMISSIONS),
    step(Both.release, worker=WORKERS),
    step(Both.record, worker=WORKERS, into=RUNS),
    step(Both.commit, into=RUNS),
    step(Both.refuse, into=RUNS),
    step(Both.retry, now=st.integers(1, 9)),
)


SEQUENCES = st.lists(STEPS, max_size=16)
Steps = list["Callable[[Both], Awaitable[None]]"]


async def check(ledger: Ledger, steps: Steps) -> None:
    """Execute steps on an empty ledger, and compare it with the model."""
    both = Both(ledger)
    for each in steps:
        await settle(ledger)
        await each(both)
    await settle(ledger)
    await both.compare()


# A quarter of the profile's examples: `--hypothesis-profile=long` searches far more.
@settings(max_examples=settings().max_examples // 4)
@given(SEQUENCES)
def test_memory_ledger_any_steps_matches_model(steps: Steps) -> None:
    """After any sequence of steps, cursor, documents, chunks, runs and submissions are those of the model."""
    asyncio.run(check(MemoryLedger(memory_table(lag=5), id="i"), steps))


@pytest.mark.parametrize("kind", ["memory", "postgres"])
@settings(max_examples=settings().max_examples // 4)
@given(SEQUENCES)
def test_sql_ledger_any_steps_matches_model(empty_ledger: EmptyLedger, kind: str, steps: Steps) -> None:
    """The same holds in SQLite and on Postgres."""

    async def run_steps() -> None:
        await check(await empty_ledger(kind), steps)

    asyncio.run(run_steps())


@pytest.mark.long
@settings(max_examples=settings().max_examples // 4, deadline=None)
@given(SEQUENCES)
def test_dynamodb_ledger_any_steps_matches_model(aws: Emulator, steps: Steps) -> None:
    """The same holds in DynamoDB."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in aws.variables(account="300000000006").items():
            patch.setenv(name, value)

        async def run_steps() -> None:
            url = address(aws, f"model-{secrets.token_hex(8)}")
            await check(await open_dynamodb(url, new_id=secrets.token_hex(16)), steps)

        asyncio.run(run_steps())
