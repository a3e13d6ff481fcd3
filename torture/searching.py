"""A process that searches while others write, and checks every answer against what was known before and after it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from flowbed.errors import Transient
from flowbed.testing.embedder import seeded
from torture import world

if TYPE_CHECKING:
    import random

    from numpy.typing import NDArray

    from flowbed import Flowbed
    from flowbed.records import Hit, SearchResults
    from torture.tables import Tables
    from torture.world import World

AGREED = 1e-4  # tolerance between a score and the cosine of the texts' own vectors


class Searcher:
    """Searches, and records wrong answers."""

    def __init__(self, bed: Flowbed, tables: Tables, column: int, size: World, chance: random.Random) -> None:
        """Search this project, and write into this column of the tables."""
        self._bed, self._tables, self._column, self._size = bed, tables, column, size
        self._chance = chance
        self.wrong: list[str] = []
        self.searches = self.transient = 0

    async def ask(self) -> None:
        """Make one search of a random kind, and check the answer."""
        ask = self._chance.choice((self._key, self._text, self._group, self._key))
        try:
            await ask()
        except Transient:
            self.transient += 1
        self.searches += 1

    async def _key(self) -> None:
        """A record has one row, at a revision no older than what was committed or seen before."""
        key = self._chance.randrange(self._size.keys)
        query = self._vector()
        oldest = self._oldest()
        found = await self._find(query, collection=world.collection_of(key), where={"key": key}, limit=5)
        if not found.hits:
            newest = int(self._tables.written.now()[key])
            if not any(world.deleted(key, each) or not each for each in range(int(oldest[key]), newest + 1)):
                self._say(f"key {key} is not found, and is there from revision {oldest[key]} to {newest}")
            return
        if [hit.metadata["key"] for hit in found.hits] != [key]:
            self._say(f"key {key} has more than one row, or another's: {found.hits}")
        self._look(found, query, oldest)

    async def _text(self) -> None:
        """The exact text of an existing record is found first, with a score of 1."""
        key = self._chance.randrange(self._size.keys)
        oldest, group_oldest = self._oldest(), self._group_oldest()
        revision = int(oldest[key])
        query = world.text(key, revision)
        found = await self._find(query, limit=10)
        self._look(found, seeded([query], world.DIMENSIONS)[0], oldest, group_oldest)
        stands = revision and not world.deleted(key, revision) and self._tables.written.now()[key] == revision
        if stands and (not found.hits or found.hits[0].document != query or found.hits[0].score < 1 - AGREED):
            self._say(
                f"the text of key {key}, revision {revision}, is not what is found first: {found.hits[:1]}"
            )

    async def _group(self) -> None:
        """All rows of a group are of one revision, or none exists: in one collection, or in all of them at once."""
        groups = [self._chance.randrange(world.GROUPS)]
        where: dict[str, object] = {"group": groups[0]}
        if self._chance.random() < 0.5:
            groups, where = list(range(world.GROUPS)), {}
        query, oldest = self._vector(), self._group_oldest()
        found = await self._find(
            query, collection=world.TOGETHER, where=where, limit=len(groups) * world.MEMBERS + 5
        )
        gone = self._tables.group_gone.now()
        read = [each for hit in found.hits if (each := world.member_of(hit.document)) is not None]
        for group in groups:
            revisions = [revision for of, _, revision in read if of == group]
            if not revisions and oldest[group] > gone[group]:
                self._say(f"group {group} is not found, and is there since revision {oldest[group]}")
            if revisions and (len(revisions) != world.MEMBERS or len(set(revisions)) != 1):
                self._say(f"group {group} is not whole: {revisions}")
        self._look(found, query, self._oldest(), oldest)

    async def _find(
        self, query: str | NDArray[np.float32], *, collection: str | None = None, **how: object
    ) -> SearchResults:
        """Search, and check that no collection goes back to an older version."""
        before = self._tables.version.now()
        found = await self._bed.find(
            query if isinstance(query, str) else query.tolist(),
            collection=collection,
            **how,  # type: ignore[arg-type]
        )
        for name, version in found.versions.items():
            place = world.COLLECTIONS.index(name)
            if version < before[place]:
                self._say(f"collection {name} went back from version {before[place]} to {version}")
            self._tables.version.raise_to(place, self._column, version)
        return found

    def _look(
        self,
        found: SearchResults,
        query: NDArray[np.float32],
        oldest: NDArray[np.int64],
        group_oldest: NDArray[np.int64] | None = None,
    ) -> None:
        """Check that each hit's text belongs to its id, its score to its text, and its revision is allowed."""
        ids = [(hit.collection, hit.id) for hit in found.hits]
        if len(set(ids)) != len(ids):
            self._say(f"an id is there twice: {ids}")
        scores = [hit.score for hit in found.hits]
        if scores != sorted(scores, reverse=True):
            self._say(f"the best is not first: {scores}")
        vectors = seeded([hit.document for hit in found.hits], world.DIMENSIONS)
        for hit, vector in zip(found.hits, vectors, strict=True):
            if abs(float(vector @ query) - hit.score) > AGREED:
                self._say(f"{hit} has a vector that is not its text's")
            if hit.collection == world.TOGETHER:
                self._look_at_member(hit, group_oldest)
            else:
                self._look_at_key(hit, oldest)

    def _look_at_key(self, hit: Hit, oldest: NDArray[np.int64]) -> None:
        read = world.revision_of(hit.document)
        if read is None or (hit.metadata["key"], hit.metadata["revision"]) != read:
            self._say(f"{hit} has the metadata of another text, or a text that nobody wrote")
            return
        key, revision = read
        newest = int(self._tables.written.now()[key])
        if not oldest[key] <= revision <= newest or world.deleted(key, revision):
            self._say(f"{hit} is none of revisions {oldest[key]} to {newest}, or a deleted one")
        self._tables.seen.raise_to(key, self._column, revision)

    def _look_at_member(self, hit: Hit, oldest: NDArray[np.int64] | None) -> None:
        read = world.member_of(hit.document)
        if read is None:
            self._say(f"{hit} has a text that nobody wrote")
            return
        group, _, revision = read
        newest = int(self._tables.group_written.now()[group])
        if revision > newest or world.removes(revision) or (oldest is not None and revision < oldest[group]):
            self._say(f"{hit} is not between {None if oldest is None else oldest[group]} and {newest}")
        self._tables.group_seen.raise_to(group, self._column, revision)

    def _oldest(self) -> NDArray[np.int64]:
        """Return the lowest revision of each record that an answer from now on may have."""
        return np.maximum(self._tables.acknowledged.now(), self._tables.seen.now())

    def _group_oldest(self) -> NDArray[np.int64]:
        return np.maximum(self._tables.group_acknowledged.now(), self._tables.group_seen.now())

    def _vector(self) -> NDArray[np.float32]:
        vector: NDArray[np.float32] = seeded([str(self._chance.random())], world.DIMENSIONS)[0]
        return vector

    def _say(self, what: str) -> None:
        self.wrong.append(what)
