"""The state machine of everything that can happen to an index, and what must hold after each step."""

from __future__ import annotations

import json
from collections import Counter
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule
from tests.model.bed import DIMENSIONS, DOCUMENTS, FAULTS, OPENED, READ, Bed, WrongError
from tests.support.world import COLLECTION, LISTED, LOGGED, Content

from flowbed import telemetry
from flowbed.errors import Error, NotFound
from flowbed.index.active_space import live_collection
from flowbed.index.search import search
from flowbed.lanes.claims import CLAIM
from flowbed.records import Status
from flowbed.storage import open_store
from flowbed.testing.embedder import seeded

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Mapping
    from pathlib import Path

    from flowbed.storage import Store


LONG = "\n\n".join(f"{word} " * 10 for word in ("four", "five"))  # two chunks
TEXTS = ["one", "two", LONG]
# Where an actor may be overtaken: right after a write, and between reading and writing.
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
MOST_PAUSED = 4  # actors at once
NAMES, SOME = st.sampled_from(DOCUMENTS), st.integers(0, 9)
TEXT = st.one_of(st.none(), st.sampled_from(TEXTS))
# What happens; repeated entries are more frequent.
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
SCORED = 1e-5  # tolerance of a score


class Model(RuleBasedStateMachine):
    """Everything that can happen to an index.

    `focus` says which job is overtaken where, unless that is random; `jobs` are the others.
    """

    focus: tuple[tuple[str, str], ...] = ()
    place: Callable[[Path], Store] = staticmethod(lambda folder: open_store("store", folder=folder))
    disturb: Callable[[bool], None] = staticmethod(lambda _: None)
    jobs: tuple[str, ...] = ("work", "work", "embed", "commit", "compact", "release")

    def __init__(self) -> None:
        """Start with an empty index."""
        super().__init__()
        self.bed = Bed(self.place, self.disturb)
        self.world = self.bed.world
        # The newest revision seen of each chunk, and the rows of each version.
        self.seen: dict[str, int] = {}
        self.known: dict[tuple[str, str], int] = {}
        self.versions: dict[int, dict[str, Content]] = {}
        self.points: tuple[tuple[str, str], ...] = ()
        # The revisions of each chunk that rollbacks removed, and that must not be seen again.
        self.undone: dict[str, set[int]] = {}
        self.put_back: list[dict[str, Content]] = []
        self.sound = True

    @initialize(points=st.lists(SOME, min_size=len(STOPS), max_size=len(STOPS)), text=st.sampled_from(TEXTS))
    def begin(self, points: list[int], text: str) -> None:
        """Start with a document, and choose who is overtaken where: often at few points, sometimes at each."""
        chosen = zip(STOPS.items(), points, strict=True)
        stops = [(job, stops[number % len(stops)]) for (job, stops), number in chosen]
        self.points = self.focus or tuple({stops[number % len(stops)]: None for number in points[:2]})
        self.world.write(DOCUMENTS[0], text)

    # One rule: Hypothesis disables rules at random, and without most of these little happens.
    @rule(step=STEPS)
    def happen(self, step: tuple[Any, ...]) -> None:
        """Take one step."""
        does, *arguments = step
        getattr(self, does)(*arguments)

    def edit(self, name: tuple[str, str], text: str | None) -> None:
        """Add, edit or remove a document."""
        if text is not None or name in self.world.now:
            self.world.write(name, text)

    def start(self, number: int) -> None:
        """Run a job in another process."""
        self.begun(self.jobs[number % len(self.jobs)])

    def overtake(self, number: int, name: tuple[str, str], text: str | None, then: str | None) -> None:
        """Start a job that has something to do, pause it, and edit again."""
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
        """Roll back."""
        if self.versions:
            self.bed.target = sorted(self.versions)[-1 - number % len(self.versions)]
            self.begun("roll back", stop)

    def begun(self, job: str, stop: str = "") -> None:
        """Start a job."""
        if job == "release":
            self.undone.clear()
        self.attempt(lambda: self.bed.start(job, stop))

    def go_on(self, number: int, killed: bool) -> None:
        """Continue a paused process to its end, or kill it."""
        if not self.bed.paused:
            return
        actor = self.bed.paused[number % len(self.bed.paused)]
        if killed:
            self.bed.kill(actor)
        else:
            self.attempt(lambda: self.bed.resume(actor))

    def wait(self, seconds: float) -> None:
        """Advance the clock."""
        self.bed.clock.advance(seconds=seconds)

    def fail(self, operation: str, when: str) -> None:
        """Make the store fail its next call of a kind, before or after doing it."""
        self.bed.faults[operation, when].armed = True

    def read(self, text: str, number: int) -> None:
        """Search: all rows are found with their scores, also in an older version."""
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
        """Finish all jobs, run once more, and compare the index with the sources."""
        for once in self.bed.faults.values():
            once.armed = False
        self.bed.disturb = lambda _: None
        while self.bed.paused:
            self.attempt(lambda: self.bed.resume(self.bed.paused[0]))
            self.look()
        self.bed.clock.advance(seconds=CLAIM / 1e6 + 1)  # the claims of killed processes expire
        for _ in range(3):  # the next round does what a rollback overtook, or what was stale
            self.begun("work")
            self.look()
        self.look_at_documents()
        self.begun("release")
        for _ in range(2):  # the next round embeds what a commit found stale
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
        """Check that no id is doubled, no vector is another text's, and no row is older than before or missing."""
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
        """Check that the ledger's revision of a document never decreases: of two fetches, one loses."""
        for source in (LISTED, LOGGED):
            names = [name for each, name in DOCUMENTS if each == source]
            for name, row in self.quietly(self.bed.ledger.documents.get(source, names)).items():
                if not row.etag:
                    continue  # cleared by a rollback, so that the next fetch reads the document again
                revision = int(row.etag.rpartition(":")[2])
                if revision < self.known.get((source, name), 0):
                    self.wrong(
                        f"{name} was known at revision {self.known[source, name]}, and is at {revision}"
                    )
                self.known[source, name] = revision

    def roll(self, target: int, restored: int) -> None:
        """Return to the rows of `target`, and record the later revisions as undone."""
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
        """Return the newest revision at which a chunk had this content; 0 where there is none."""
        return max((number for number, was in self.world.chunks.get(key, []) if was == content), default=0)

    def look_at(self, row: Mapping[str, Any], content: Content) -> None:
        """Check that a row has a revision of its document, and none older than was seen before."""
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
        """Check that each document is whole: at one revision, or as a rollback restored it."""
        _, rows = self.quietly(self.bed.table())
        for name in DOCUMENTS:
            there = of_document(name, contents(rows))
            numbers = {number for was in of_document(name, self.world.chunks).values() for number, _ in was}
            editions = [self.edition(name, number) for number in (0, *numbers)]
            if there not in editions and there not in [of_document(name, each) for each in self.put_back]:
                self.wrong(f"{name} is {there}, part of which is of another time than the rest: {editions}")

    def edition(self, name: tuple[str, str], number: int) -> dict[str, Content]:
        """Return the chunks of a document at one of its revisions; none at revision 0."""
        found = {key: dict(was).get(number) for key, was in of_document(name, self.world.chunks).items()}
        return {key: content for key, content in found.items() if content is not None}

    def attempt(self, act: Callable[[], None]) -> None:
        """Run an action; an unexpected error is wrong."""
        try:
            act()
        except WrongError as error:
            self.wrong(str(error))
        except Error as error:
            self.wrong(f"{type(error).__name__}: {error}")

    def quietly(self, work: Coroutine[Any, Any, Any]) -> Any:
        """Run a coroutine without the faults meant for the actors."""
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
        """Settle and close, as after any history."""
        try:
            if self.sound:
                self.settle()
        finally:
            self.bed.close()


def contents(rows: list[dict[str, Any]]) -> dict[str, Content]:
    """Return the live rows without the fields that do not count."""
    return {
        row["id"]: (row["text_hash"], row["document"], json.loads(row["metadata"]))
        for row in rows
        if not row["deleted"]
    }


def of_document(name: tuple[str, str], chunks: Mapping[str, T]) -> dict[str, T]:
    """Select the chunks of one document."""
    return {key: each for key, each in chunks.items() if key.startswith("#".join((*name, "")))}
