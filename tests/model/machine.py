"""Whatever happens in whatever order, the index ends as what the sources hold, and is never wrong on the way."""

from __future__ import annotations

import asyncio
import json
import secrets
import shutil
import tempfile
from collections import Counter
from dataclasses import dataclass, replace
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import pyarrow as pa
import pytest
import sqlalchemy as sa
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test
from tests.support import interleaving
from tests.support.interleaving import Actor
from tests.support.s3 import REGION, variables
from tests.support.world import COLLECTION, LISTED, LOGGED, Content, Listed, Logged, World, rules

from flowbed import telemetry
from flowbed.embedding.cache.cached import Cached
from flowbed.errors import Conflict, Error, NotFound, Transient
from flowbed.index import compaction, datasets, deltas, schema
from flowbed.index.active_space import live_collection
from flowbed.index.compaction import compact
from flowbed.index.datasets import Datasets
from flowbed.index.search import search
from flowbed.lanes.claims import CLAIM
from flowbed.lanes.contexts import RunContext
from flowbed.lanes.embed import embed
from flowbed.lanes.failures import RunStats
from flowbed.lanes.write_deltas import commit_pending
from flowbed.ledger import Cursor, open_ledger
from flowbed.ledger.sql.schema import cursors
from flowbed.ledger.sql.tables.documents import SqlDocuments
from flowbed.ledger.sql.tables.runs import SqlRuns
from flowbed.pipeline import ConfiguredSource, changes, rollback
from flowbed.pipeline.rollback import release, roll_back
from flowbed.pipeline.run import run
from flowbed.pipeline.sync import sync
from flowbed.records import Status, run_id
from flowbed.storage import open_store
from flowbed.testing.clock import FixedClock
from flowbed.testing.embedder import Seeded, seeded
from flowbed.testing.faults import Fault, FaultyStore, unavailable
from flowbed.testing.s3proxy import CUT, INTERNAL_ERROR, SLOW_DOWN, S3Fault, S3Proxy

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Iterable, Mapping

    from tests.support.s3 import S3Server

    from flowbed.index.active_space import Live
    from flowbed.ledger import RunRow
    from flowbed.records import Problem
    from flowbed.storage import Store, Stored

DIMENSIONS = 8
DOCUMENTS = [(LISTED, "a"), (LOGGED, "b")]
LONG = "\n\n".join(f"{word} " * 10 for word in ("four", "five"))  # two chunks
TEXTS = ["one", "two", LONG]
# Where an actor may be overtaken: where what is kept has just changed, and between reading and writing.
OPENED, READ = "index.opened", "delta.read"
COMMITTING = [READ, telemetry.INDEX_MERGED, telemetry.RUN_COMMITTED]
STOPS = {
    "fetch": [telemetry.BATCH_REGISTERED, telemetry.BATCH_WRITTEN, telemetry.FETCH_SWAPPED],
    "embed": [
        telemetry.CHUNKS_CLAIMED,
        telemetry.REQUEST_SENT,
        telemetry.DELTA_WRITTEN,
        telemetry.RUN_RECORDED,
        *COMMITTING,
    ],
    "commit": COMMITTING,
    "compact": [OPENED, telemetry.COMPACTION_MERGED],
    "roll back": [*telemetry.ROLLBACK_FAILPOINTS],
}
DAY = 86_400.0
STEPS_EACH = 30
MOST_HISTORIES = 500  # in which a missing safety is missed; most are within the first ten
MOST_PAUSED = 4  # actors at once
NAMES, SOME = st.sampled_from(DOCUMENTS), st.integers(0, 9)
TEXT = st.one_of(st.none(), st.sampled_from(TEXTS))
S3_FAULTS = [
    S3Fault(probability=0.02, after=INTERNAL_ERROR),  # done, and said to have failed
    S3Fault(probability=0.02, after=CUT),
    S3Fault(probability=0.02, before=SLOW_DOWN),
    S3Fault(probability=0.02, before=CUT),
]
FAULTS = [("get", "before"), ("create", "before"), ("create", "after")]
# What happens, as often as it is named here.
STEPS = st.one_of(
    *[st.tuples(st.just("overtake"), SOME, NAMES, TEXT, TEXT)] * 3,
    *[st.tuples(st.just("start"), SOME)] * 4,
    *[st.tuples(st.just("go_on"), SOME, st.sampled_from([False, False, False, True]))] * 3,
    *[st.tuples(st.just("edit"), NAMES, TEXT)] * 2,
    st.tuples(st.just("roll_back"), SOME),
    st.tuples(st.just("wait"), st.sampled_from([0.001, CLAIM / 1e6 + 1, DAY, 31 * DAY])),
    st.sampled_from([("fail", *fault) for fault in FAULTS]),
    st.tuples(st.just("read"), st.sampled_from(TEXTS), SOME),
)
T = TypeVar("T")
SCORED = 1e-5  # how far a score may be from what it is


class WrongError(AssertionError):
    """The index is, or became, what it must never be."""


class Overtaken(FaultyStore):
    """A store where an actor can be overtaken between listing the deltas to commit and merging them."""

    async def get(self, key: str) -> Stored:
        """Read, and stop there if that is the order."""
        if key.endswith("/delta.arrow"):
            interleaving.reach(READ)
        return await super().get(key)


class OpenedEarly(Datasets):
    """Datasets where an actor can be overtaken between opening and writing."""

    async def open(self, live: Live, *, version: int | None = None) -> Any:
        """Open, and stop there if that is the order."""
        dataset = await super().open(live, version=version)
        interleaving.reach(OPENED)
        return dataset


@dataclass
class Once:
    """The calls in which an armed fault strikes: the next one, or none."""

    armed: bool = False

    def __contains__(self, number: object) -> bool:
        """Strike, and be done."""
        struck, self.armed = self.armed, False
        return struck


class Bed:
    """The real context, and the actors that work with it."""

    def __init__(self, place: Callable[[Path], Store], disturb: Callable[[bool], None]) -> None:
        """Open everything, the store where `place` says; `disturb` says whether its own faults may strike."""
        self.world = World()
        self.clock = FixedClock()
        self.loop = asyncio.Runner()
        # In memory where there is such a place: each write waits until it is on disk.
        shared = Path("/dev/shm")  # noqa: S108 - a folder of a random name in it
        self.folder = Path(tempfile.mkdtemp(dir=shared if shared.is_dir() else None))
        self.faults = {fault: Once() for fault in FAULTS}
        self.store = Overtaken(
            place(self.folder),
            [
                Fault(operation=operation, calls=once, **{when: unavailable})  # type: ignore[arg-type]
                for (operation, when), once in self.faults.items()
            ],
        )
        self.ledger = self.run(open_ledger(":memory:", folder=self.folder, new_id="ledger"))
        self.datasets = Datasets(self.store)
        self.disturb = disturb
        self.paused: list[Actor] = []
        self.killed: list[Actor] = []
        self.started = 0
        self.target = 0  # of the rollback that is started next
        self.restored: list[tuple[int, int]] = []  # targets and versions of what nobody has looked at yet
        self.deaf = [telemetry.listen(self.hear), interleaving.listen()]  # heard before anyone stops at it

    def hear(self, point: str, facts: dict[str, Any]) -> None:
        """Take note of rollbacks: they alone may bring back what was."""
        if point == telemetry.ROLLBACK_RESTORED:
            self.restored.append((facts["target"], facts["version"]))

    def run(self, work: Coroutine[Any, Any, Any]) -> Any:
        """Do something at once, undisturbed."""
        return self.loop.run(work)

    def context(self, worker: str) -> RunContext:
        """Build the context as a separate process would."""
        return RunContext(
            store=self.store,
            ledger=self.ledger,
            datasets=OpenedEarly(self.store),
            embedder=lambda: Cached(Seeded(DIMENSIONS), []),
            batch_api=lambda: None,
            new_id=lambda: secrets.token_hex(12),
            clock=self.clock,
            monotonic=lambda: self.clock() / 1e6,
            dead=lambda name: any(actor.name == name for actor in self.killed),
            worker=worker,
            concurrency=1,
            sources=frozenset({LISTED, LOGGED}),
        )

    def feeds(self) -> dict[str, ConfiguredSource]:
        """Give both sources."""
        return {
            LISTED: ConfiguredSource(source=Listed(self.world), rules=rules(LISTED)),
            LOGGED: ConfiguredSource(source=Logged(self.world), rules=rules(LOGGED)),
        }

    async def work(self, context: RunContext) -> None:
        """Do everything that a run does."""
        report = await run(context, feeds=self.feeds(), allow_deletes=True)
        unforeseen(report.failures)

    async def fetch(self, context: RunContext) -> None:
        """Fetch both sources."""
        for feed in self.feeds().values():
            unforeseen((await sync(feed, context, allow_deletes=True)).problems)

    async def embed(self, context: RunContext) -> None:
        """Embed what waits, and commit it."""
        unforeseen((await embed(context, sources=())).failures)

    async def commit(self, context: RunContext) -> None:
        """Commit what is pending."""
        tally = RunStats()
        await commit_pending(COLLECTION, context, tally)
        unforeseen(tally.failures)

    async def compact(self, context: RunContext) -> None:
        """Compact without the lease, which only saves work."""
        live = await live_collection(context.store, COLLECTION)
        if live is not None:
            await compact(
                live,
                datasets=context.datasets,
                vector_index="never",
                oldest_pending=await oldest_pending(context),
                now=context.clock(),
            )

    async def roll_back(self, context: RunContext) -> None:
        """Roll back, whoever else is at it: the lease only saves work."""
        await context.store.delete([f"{COLLECTION}/lease.json"])
        await roll_back(context, COLLECTION, self.target)

    async def release(self, context: RunContext) -> None:
        """Release what was rolled back."""
        await release(context, COLLECTION)

    def start(self, job: str, stop: str = "", times: int = 1) -> None:
        """Begin a job, up to a point or to its end."""
        self.started += 1
        name = f"{job} {self.started}"
        context = self.context(name)
        work = getattr(self, job.replace(" ", "_"))
        actor = Actor(name, lambda: work(context))
        self.paused.append(actor)
        self.resume(actor, stop, times)

    def resume(self, actor: Actor, stop: str = "", times: int = 1) -> None:
        """Let an actor go on, up to a point or to its end."""
        self.disturb(True)
        actor.proceed(stop, times)
        self.disturb(False)
        if actor.done:
            self.paused.remove(actor)
            if actor.error is not None and not isinstance(actor.error, Conflict | Transient | NotFound):
                raise actor.error

    def kill(self, actor: Actor) -> None:
        """Leave an actor where it stands, for good."""
        self.paused.remove(actor)
        self.killed.append(actor)

    async def table(self, version: int | None = None) -> tuple[int, list[dict[str, Any]]]:
        """Read a version of the index, tombstones too."""
        live = await live_collection(self.store, COLLECTION)
        dataset = None if live is None else await self.datasets.open(live, version=version)
        if dataset is None:
            return 0, []
        return int(dataset.version), dataset.to_table().to_pylist()

    def close(self) -> None:
        """End what is left of the actors, and let go of everything."""
        self.disturb(False)
        for actor in (*self.paused, *self.killed):
            actor.unwind()
        for deafen in self.deaf:
            deafen()
        self.run(self.ledger.close())
        self.loop.close()
        shutil.rmtree(self.folder)


class Model(RuleBasedStateMachine):
    """Everything that can happen to an index.

    `focus` names who is overtaken where, unless that is left to chance; `jobs` are what is done besides.
    """

    focus: tuple[tuple[str, str], ...] = ()
    place: Callable[[Path], Store] = staticmethod(lambda folder: open_store("store", folder=folder))
    disturb: Callable[[bool], None] = staticmethod(lambda _: None)
    jobs: tuple[str, ...] = ("work", "work", "embed", "commit", "compact", "release")

    def __init__(self) -> None:
        """Begin with nothing."""
        super().__init__()
        self.bed = Bed(self.place, self.disturb)
        self.world = self.bed.world
        # Up to which revision each chunk was seen, and what the index held in each version.
        self.seen: dict[str, int] = {}
        self.known: dict[tuple[str, str], int] = {}
        self.versions: dict[int, dict[str, Content]] = {}
        self.points: tuple[tuple[str, str], ...] = ()
        # What rollbacks took away of each chunk: the revisions that were seen and must not be seen again.
        self.undone: dict[str, set[int]] = {}
        self.put_back: list[dict[str, Content]] = []
        self.sound = True

    @initialize(points=st.lists(SOME, min_size=len(STOPS), max_size=len(STOPS)), text=st.sampled_from(TEXTS))
    def begin(self, points: list[int], text: str) -> None:
        """Begin with a document, and decide who is overtaken where: often at few points, not seldom at each."""
        chosen = zip(STOPS.items(), points, strict=True)
        stops = [(job, stops[number % len(stops)]) for (job, stops), number in chosen]
        self.points = self.focus or tuple({stops[number % len(stops)]: None for number in points[:2]})
        self.world.write(DOCUMENTS[0], text)

    # One rule, since Hypothesis switches rules off in turn, and without most of these nothing much happens.
    @rule(step=STEPS)
    def happen(self, step: tuple[Any, ...]) -> None:
        """Something happens."""
        does, *arguments = step
        getattr(self, does)(*arguments)

    def edit(self, name: tuple[str, str], text: str | None) -> None:
        """Someone adds, edits or removes a document."""
        if text is not None or name in self.world.now:
            self.world.write(name, text)

    def start(self, number: int) -> None:
        """A process does something."""
        self.begun(self.jobs[number % len(self.jobs)])

    def overtake(self, number: int, name: tuple[str, str], text: str | None, then: str | None) -> None:
        """A process begins something that there is to do, is overtaken at a point of it, and someone edits again."""
        if len(self.bed.paused) >= MOST_PAUSED:
            return
        job, stop = self.points[number % len(self.points)]
        if job in {"fetch", "embed", "commit"}:
            self.edit(name, text if name in self.world.now else text or TEXTS[0])
        if job in {"embed", "commit"}:
            self.begun("fetch")
        if job == "commit":
            self.begun("embed", telemetry.RUN_RECORDED)
        if job == "roll back":
            self.roll_back(number, stop)
        else:
            self.begun(job, stop)
        self.edit(name, then)

    def roll_back(self, number: int, stop: str = "") -> None:
        """Someone rolls back."""
        if self.versions:
            self.bed.target = sorted(self.versions)[-1 - number % len(self.versions)]
            self.begun("roll back", stop)

    def begun(self, job: str, stop: str = "") -> None:
        """Begin a job."""
        if job == "release":
            self.undone.clear()
        self.attempt(lambda: self.bed.start(job, stop))

    def go_on(self, number: int, killed: bool) -> None:
        """A process that was overtaken goes on to its end, or is killed."""
        if not self.bed.paused:
            return
        actor = self.bed.paused[number % len(self.bed.paused)]
        if killed:
            self.bed.kill(actor)
        else:
            self.attempt(lambda: self.bed.resume(actor))

    def wait(self, seconds: float) -> None:
        """Time passes."""
        self.bed.clock.advance(seconds=seconds)

    def fail(self, operation: str, when: str) -> None:
        """The store fails its next call of a kind, before or after having done it."""
        self.bed.faults[operation, when].armed = True

    def read(self, text: str, number: int) -> None:
        """Someone searches, and finds what is there, by its distance; and an older version is what it was."""
        live = self.quietly(live_collection(self.bed.store, COLLECTION))
        if live is None or not self.versions:
            return
        vector = seeded([text], DIMENSIONS)[0]
        for at in (None, sorted(self.versions)[-1 - number % len(self.versions)]):
            try:
                found = self.quietly(search(vector, [live], datasets=self.bed.datasets, limit=100, at=at))
            except NotFound:
                continue  # compaction drops old versions
            rows = self.versions[found.versions[COLLECTION]]
            if sorted(hit.id for hit in found.hits) != sorted(rows):
                self.wrong(f"a search found {[hit.id for hit in found.hits]} of {sorted(rows)}")
            for hit in found.hits:
                score = float(vector @ seeded([rows[hit.id][1]], DIMENSIONS)[0])
                if hit.document != rows[hit.id][1] or abs(hit.score - score) > SCORED:
                    self.wrong(f"a search found {hit}, and there is {rows[hit.id]}")

    def settle(self) -> None:
        """All that was begun comes to its end, everything is run once more, and the index is what the sources hold."""
        for once in self.bed.faults.values():
            once.armed = False
        self.bed.disturb = lambda _: None
        while self.bed.paused:
            self.attempt(lambda: self.bed.resume(self.bed.paused[0]))
            self.look()
        self.bed.clock.advance(seconds=CLAIM / 1e6 + 1)  # the claims of the killed run out
        for _ in range(3):  # what was overtaken by a rollback, or found stale, is for the next round
            self.begun("work")
            self.look()
        self.look_at_documents()
        self.begun("release")
        for _ in range(2):  # what a commit found stale is embedded by the next round
            self.look()
            self.begun("work")
        self.look()
        _, rows = self.quietly(self.bed.table())
        if contents(rows) != self.world.live():
            raise WrongError(f"the index holds {contents(rows)}, and the sources {self.world.live()}")
        if left := self.quietly(self.bed.ledger.runs.collections()):
            raise WrongError(f"runs are pending in {left}")
        counts = self.quietly(self.bed.ledger.chunks.counts())
        if {status for _, status in counts} - {Status.SUCCESS}:
            raise WrongError(f"chunks are left over: {counts}")

    @invariant()
    def look(self) -> None:
        """The index has no id twice, no vector of another text, nothing older than was seen before, and no hole."""
        version, rows = self.quietly(self.bed.table())
        if twice := [key for key, number in Counter(row["id"] for row in rows).items() if number > 1]:
            self.wrong(f"{twice} are there twice")
        there = contents(rows)
        for target, restored in self.bed.restored:
            self.roll(target, restored)
        self.bed.restored.clear()
        for row in rows:
            if not row["deleted"]:
                self.look_at(row, there[row["id"]])
        for key in self.seen.keys() - there.keys():
            removed = [
                number for number, was in self.world.chunks[key] if was is None and number >= self.seen[key]
            ]
            if not removed:
                self.wrong(f"{key} was searchable, was never removed, and is not there")
            self.seen[key] = removed[0]
        if version and self.versions.setdefault(version, there) != there:
            self.wrong(f"version {version} has changed")

    @invariant()
    def look_into_the_ledger(self) -> None:
        """What the ledger knows of a document is never older than what it knew before: of two fetches, one loses."""
        for source in (LISTED, LOGGED):
            names = [name for each, name in DOCUMENTS if each == source]
            for name, row in self.quietly(self.bed.ledger.documents.get(source, names)).items():
                revision = int(row.etag.rpartition(":")[2] or 0)
                if revision < self.known.get((source, name), 0):
                    self.wrong(
                        f"{name} was known at revision {self.known[source, name]}, and is at {revision}"
                    )
                self.known[source, name] = revision

    def roll(self, target: int, restored: int) -> None:
        """Go back to what was seen in `target`, and note what came after it as undone."""
        self.put_back.append(self.versions[target])
        before = {key: self.revision(key, content) for key, content in self.versions[target].items()}
        for version, rows in self.versions.items():
            if target < version < restored:
                for key, content in rows.items():
                    self.undone.setdefault(key, set()).add(self.revision(key, content))
        for key, revision in before.items():
            self.undone.get(key, set()).discard(revision)
        self.seen = before

    def revision(self, key: str, content: Content) -> int:
        """Tell at which revision a chunk was this; 0 where it never was."""
        return max((number for number, was in self.world.chunks.get(key, []) if was == content), default=0)

    def look_at(self, row: Mapping[str, Any], content: Content) -> None:
        """See that a row is what its document was at a time, and no earlier than was seen before."""
        key = row["id"]
        revision = self.revision(key, content)
        if not revision:
            self.wrong(f"{key} never was {content}")
        if revision in self.undone.get(key, ()):
            self.wrong(f"{key} is back at revision {revision}, which was rolled back")
        if revision < self.seen.get(key, 0):
            self.wrong(f"{key} is back at revision {revision}, and was at {self.seen[key]}")
        self.seen[key] = revision
        expected = seeded([row["document"]], DIMENSIONS)[0]
        if not np.allclose(row["vector"], expected, atol=1e-5):
            self.wrong(f"{key} has the vector of another text")

    def look_at_documents(self) -> None:
        """See that each document is as it was at one time, or as a rollback has put it back: no part of it is older."""
        _, rows = self.quietly(self.bed.table())
        for name in DOCUMENTS:
            there = of_document(name, contents(rows))
            numbers = {number for was in of_document(name, self.world.chunks).values() for number, _ in was}
            editions = [self.edition(name, number) for number in (0, *numbers)]
            if there not in editions and there not in [of_document(name, each) for each in self.put_back]:
                self.wrong(f"{name} is {there}, part of which is of another time than the rest: {editions}")

    def edition(self, name: tuple[str, str], number: int) -> dict[str, Content]:
        """Give the chunks of a document as it was at a revision of its own; none at revision 0."""
        found = {key: dict(was).get(number) for key, was in of_document(name, self.world.chunks).items()}
        return {key: content for key, content in found.items() if content is not None}

    def attempt(self, act: Callable[[], None]) -> None:
        """Let the bed do something; whatever comes out of it that is not foreseen, is wrong."""
        try:
            act()
        except WrongError as error:
            self.wrong(str(error))
        except Error as error:
            self.wrong(f"{type(error).__name__}: {error}")

    def quietly(self, work: Coroutine[Any, Any, Any]) -> Any:
        """Look without meeting the faults that are for the actors."""
        armed = [once for once in self.bed.faults.values() if once.armed]
        for once in armed:
            once.armed = False
        try:
            return self.bed.run(work)
        finally:
            for once in armed:
                once.armed = True

    def wrong(self, what: str) -> None:
        """Fail."""
        self.sound = False
        raise WrongError(what)

    def teardown(self) -> None:
        """Come to an end, as after any history."""
        try:
            if self.sound:
                self.settle()
        finally:
            self.bed.close()


async def oldest_pending(context: RunContext) -> int | None:
    """Tell since when the oldest delta waits for a commit."""
    pending = await context.ledger.runs.pending(COLLECTION, limit=1)
    return pending[0].created if pending else None


def unforeseen(problems: Iterable[Problem]) -> None:
    """Fail for problems that the store's faults do not explain."""
    if wrong := [each for each in problems if "(a fault to order)" not in each.reason]:
        raise WrongError(f"a job met {wrong}")


def contents(rows: list[dict[str, Any]]) -> dict[str, Content]:
    """Give the live rows without what does not count."""
    return {
        row["id"]: (row["text_hash"], row["document"], json.loads(row["metadata"]))
        for row in rows
        if not row["deleted"]
    }


def of_document(name: tuple[str, str], chunks: Mapping[str, T]) -> dict[str, T]:
    """Pick the chunks of one document."""
    return {key: each for key, each in chunks.items() if key.startswith("#".join((*name, "")))}


def histories(model: type[Model], **options: Any) -> None:
    """Live through many histories."""
    run_state_machine_as_test(
        model,
        settings=settings(
            stateful_step_count=STEPS_EACH, deadline=None, suppress_health_check=list(HealthCheck), **options
        ),
    )


def test_the_index_is_what_the_sources_hold() -> None:
    """However fetches, commits, compactions, rollbacks, kills and faults come upon each other, nothing is wrong."""
    histories(Model, max_examples=settings().max_examples // 2)


A = (LISTED, "a")


@pytest.mark.parametrize(
    "steps",
    [
        pytest.param(
            [("fail", "create", "after"), ("begun", "fetch"), ("edit", A, "one"), ("begun", "work")],
            id="a batch file of a fetch that failed, and a document of the same text",
        ),
        pytest.param(
            [
                ("begun", "work"),
                ("edit", A, "two"),
                ("begun", "fetch"),
                ("begun", "embed", telemetry.RUN_RECORDED),
                ("begun", "commit", READ),
                ("go_on", 0, False),
                ("roll_back", 1),
                ("go_on", 0, False),
            ],
            id="a commit overtaken by another and then by a rollback",
        ),
        pytest.param(
            [
                ("begun", "fetch"),
                ("begun", "embed", telemetry.DELTA_WRITTEN),
                ("wait", 1),
                ("edit", A, None),
                ("begun", "work"),
                ("wait", 31 * DAY),
                ("begun", "compact"),
                ("go_on", 0, False),
            ],
            id="a process that sleeps for a month over a delta",
        ),
        pytest.param(
            [
                ("edit", A, LONG),
                ("begun", "work"),
                ("edit", A, "one"),
                ("begun", "work"),
                ("roll_back", 1),
                ("edit", A, "two"),
                ("begun", "work"),
            ],
            id="an edit after a rollback that has put part of the document back",
        ),
        pytest.param(
            [
                ("edit", A, LONG),
                ("begun", "work"),
                ("edit", A, "one"),
                ("begun", "work"),
                ("edit", A, "two"),
                ("begun", "fetch", telemetry.BATCH_WRITTEN),
                ("roll_back", 1),
                ("go_on", 0, False),
            ],
            id="a fetch overtaken by a rollback that puts part of its document back",
        ),
    ],
)
def test_a_history_that_went_wrong_once_goes_well(steps: list[tuple[Any, ...]]) -> None:
    """Histories that were found here stay right."""
    model = Model()
    try:
        model.begin(points=[0] * len(STOPS), text="one")
        for step in steps:
            model.happen(step)
            model.look()
            model.look_into_the_ledger()
    finally:
        model.teardown()


def test_the_index_in_s3_is_what_the_sources_hold(
    s3_server: S3Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So it is in S3, where requests of the store and of Lance fail, are answered wrongly, or are cut off."""
    places = count()
    with S3Proxy(s3_server.url) as proxy:
        for name, value in variables(proxy.url).items():
            monkeypatch.setenv(name, value)
        options = {"endpoint": proxy.url, "region": REGION}

        class InS3(Model):
            place = staticmethod(
                lambda folder: open_store(f"s3://bucket/model-{next(places)}", folder=folder, options=options)
            )
            disturb = staticmethod(lambda on: proxy.order(*(S3_FAULTS if on else ())))

        histories(InS3, max_examples=settings().max_examples // 20)


def without_primary_key(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lance is told of no primary key."""
    another = {"lance-schema:another": "true"}
    monkeypatch.setattr(datasets, "PRIMARY_KEY", another)
    monkeypatch.setattr(
        datasets,
        "schema",
        lambda dimensions: schema.schema(dimensions).set(
            0, pa.field("id", pa.string(), nullable=False, metadata=another)
        ),
    )


def without_conditional_versions(monkeypatch: pytest.MonkeyPatch) -> None:
    """A fetch moves the cursor wherever it stands by now."""
    step = SqlDocuments._advance

    def advance(self: SqlDocuments, connection: sa.Connection, seen: Cursor, value: str) -> Cursor:
        stands = sa.select(cursors.c.token).where(cursors.c.source == seen.source)
        token = connection.execute(stands).scalar() or 0
        return step(self, connection, Cursor(source=seen.source, token=token), value)

    monkeypatch.setattr(SqlDocuments, "_advance", advance)


def without_tombstone_retention(monkeypatch: pytest.MonkeyPatch) -> None:
    """Compaction drops every tombstone."""
    plan = compaction.plan_compaction
    monkeypatch.setattr(
        compaction,
        "plan_compaction",
        lambda *args, **kwargs: replace(plan(*args, **kwargs), drop_before=2**62),
    )


def without_runs_named_by_content(monkeypatch: pytest.MonkeyPatch) -> None:
    """A run is named by the ids in it, whatever their versions and texts."""
    monkeypatch.setattr(
        deltas,
        "run_id",
        lambda collection, space, rows: run_id(collection, space, [(row[0], 0, False, "") for row in rows]),
    )


def without_ignoring_reverted_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    """A commit takes runs that were reverted, too."""
    pending = SqlRuns.pending
    taken: set[tuple[int, str]] = set()  # one that is stale would be taken for ever

    async def also_reverted(self: SqlRuns, collection: str, *, limit: int) -> list[RunRow]:
        found = await pending(self, collection, limit=limit)
        for each in await self.reverted(collection):
            run = await self.get(each)
            if run is not None and (id(self), each) not in taken:
                taken.add((id(self), each))
                found.append(run)
        return found

    monkeypatch.setattr(SqlRuns, "pending", also_reverted)


def without_undoing_whole_documents(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a rollback took back of a document, or put back, stays so when the document is edited."""
    monkeypatch.setattr(changes, "UNSETTLED", frozenset({Status.FAILED}))


def without_telling_fetches(monkeypatch: pytest.MonkeyPatch) -> None:
    """A fetch that was compared with what a rollback has reverted since goes on as if nothing had happened."""

    async def silent(context: RunContext, collection: str) -> None:
        """Tell nobody."""

    monkeypatch.setattr(rollback, "_tell_fetches", silent)


@pytest.mark.parametrize(
    ("switch_off", "overtaken", "besides"),
    [
        pytest.param(without_primary_key, ("commit", READ), "work", id="primary key"),
        pytest.param(
            without_conditional_versions,
            ("fetch", telemetry.BATCH_WRITTEN),
            "work",
            id="conditional version assignment",
        ),
        pytest.param(
            without_tombstone_retention,
            ("embed", telemetry.DELTA_WRITTEN),
            "work compact",
            id="tombstone retention",
        ),
        pytest.param(
            without_runs_named_by_content, ("embed", telemetry.DELTA_WRITTEN), "work", id="run id by content"
        ),
        pytest.param(
            without_ignoring_reverted_runs,
            ("roll back", telemetry.ROLLBACK_RECORDED),
            "work commit",
            id="reverted runs ignored",
        ),
        pytest.param(
            without_undoing_whole_documents,
            ("roll back", telemetry.ROLLBACK_RECORDED),
            "work",
            id="documents undone whole",
        ),
        pytest.param(
            without_telling_fetches,
            ("roll back", telemetry.ROLLBACK_TAGGED),
            "work fetch",
            id="fetches told of rollbacks",
        ),
    ],
)
def test_a_safety_that_is_missing_is_missed(
    switch_off: Callable[[pytest.MonkeyPatch], None],
    overtaken: tuple[str, str],
    besides: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """With any of its safeties switched off, an index goes wrong in some history, and this is seen."""

    class Focused(Model):
        focus = (overtaken,)
        jobs = tuple(besides.split())

    switch_off(monkeypatch)
    with pytest.raises(WrongError):
        histories(
            Focused, max_examples=MOST_HISTORIES, phases=[Phase.generate], database=None, derandomize=True
        )
