"""The contract of every kind of publication."""

from __future__ import annotations

import asyncio
import json
from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from flowbed.index.active_space import Collections
from flowbed.index.commit import commit
from flowbed.index.datasets import Datasets
from flowbed.index.deltas import Delete, Upsert, write_delta
from flowbed.index.versions import state
from flowbed.index.versions.history import restore
from flowbed.ledger import RunRow
from flowbed.publish import PublishContext
from flowbed.records import Space, text_hash

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from numpy.typing import NDArray

    from flowbed.index.active_space import Live
    from flowbed.ledger import Ledger
    from flowbed.publish import Publication, Published
    from flowbed.records import Scalar
    from flowbed.storage import Store
    from flowbed.testing.clock import FixedClock

SPACE = Space(model="test", dimensions=16)
CLOSE = 1e-3


@dataclass
class PublishedRow:
    """A row as a reader of a publication sees it."""

    document: str
    metadata: Mapping[str, Scalar]
    vector: NDArray[np.float32]


@dataclass
class PublishBench:
    """A collection `docs`, what is in it by id, and a way to commit to it."""

    store: Store
    ledger: Ledger
    clock: FixedClock
    scratch: Path
    datasets: Datasets = field(init=False)
    rows: dict[str, PublishedRow] = field(default_factory=dict)
    opened: list[Publication] = field(default_factory=list)  # to be closed at the end
    _version: int = 0

    def __post_init__(self) -> None:
        """Open the index."""
        self.datasets = Datasets(self.store)

    async def commit(self, upserts: Mapping[str, tuple[str, Mapping[str, Scalar]]], *deletes: str) -> int:
        """Commit rows (id: text and metadata) and deletions; return the new version."""
        self._version += 1
        made = {
            name: PublishedRow(document=text, metadata=metadata, vector=vector_of(text))
            for name, (text, metadata) in upserts.items()
        }
        rows = [
            Upsert(
                id=name,
                version=self._version,
                document=row.document,
                metadata=row.metadata,
                text_hash=text_hash(row.document),
                vector=row.vector,
            )
            for name, row in made.items()
        ]
        gone = [Delete(id=each, version=self._version) for each in deletes]
        delta = await write_delta(self.store, "docs", SPACE, rows, gone, now=self.clock())
        run = RunRow(
            id=delta.run,
            collection="docs",
            space=SPACE.to_json(),
            key=delta.key,
            sha256=delta.sha256,
            rows=delta.rows,
            lane="realtime",
            worker="w",
            created=self.clock(),
        )
        await self.ledger.runs.record(run, [], worker="w")
        await commit(
            "docs",
            store=self.store,
            ledger=self.ledger,
            collections=Collections(self.store),
            datasets=self.datasets,
            clock=self.clock,
        )
        self.rows.update(made)
        for each in deletes:
            self.rows.pop(each, None)
        return await self.version()

    async def drop_index(self) -> None:
        """Delete the index, as a repair does."""
        await self.store.delete([each.key async for each in self.store.list((await self.live()).key)])
        self.rows.clear()

    async def aclose(self) -> None:
        """Close the opened publications and the ledger."""
        for each in self.opened:
            await each.aclose()
        await self.ledger.close()

    def adopt(self, rows: Mapping[str, tuple[str, Mapping[str, Scalar]]]) -> None:
        """Count these rows as committed: an earlier process did that, in one commit."""
        self._version = 1
        for name, (text, metadata) in rows.items():
            self.rows[name] = PublishedRow(document=text, metadata=metadata, vector=vector_of(text))

    async def live(self) -> Live:
        """Return the live space of the collection."""
        return await self.datasets.begin("docs", SPACE, now=1)

    async def version(self) -> int:
        """Return the newest version."""
        return (await state(await self.live(), datasets=self.datasets)).version

    async def publish(self, publication: Publication, version: int | None = None) -> Published:
        """Publish a version (default: the newest), a second after the last time."""
        self.clock.advance(seconds=1)
        return await publication.publish(await self.live(), version or await self.version())

    def context(self, name: str = "copy", *, scratch: str = "", **changes: Any) -> PublishContext:
        """Return what a publication works with; another `scratch` is that of another machine."""
        known: dict[str, Any] = {
            "name": name,
            "store": self.store,
            "datasets": self.datasets,
            "scratch": self.scratch / (scratch or name),
            "clock": self.clock,
            "worker": "host/1/1.00/ab",
            "dead": lambda worker: worker != "host/1/1.00/ab",
        }
        return PublishContext(**{**known, **changes})


def vector_of(text: str) -> NDArray[np.float32]:
    """Make the unit vector of a text."""
    drawn = np.random.default_rng(int(text_hash(text)[:16], 16)).normal(size=SPACE.dimensions)
    unit: NDArray[np.float32] = (drawn / np.linalg.norm(drawn)).astype(np.float32)
    return unit


def texts(*names: str, **metadata: Scalar) -> dict[str, tuple[str, dict[str, Scalar]]]:
    """Make rows of these ids, with metadata."""
    return {name: (f"text of {name}", dict(metadata)) for name in names}


def numbered(count: int, **metadata: Scalar) -> dict[str, tuple[str, dict[str, Scalar]]]:
    """Make so many rows."""
    return texts(*(f"row-{number:05d}" for number in range(count)), **metadata)


class PublicationContract(ABC):
    """Subclass it with the fixture `publish_bench`, and say how to open a publication and how to read one."""

    # Whether every publication writes all rows.
    WHOLE = False

    @abstractmethod
    def open(self, bench: PublishBench) -> Publication:
        """Open the publication under test."""

    @abstractmethod
    async def read(self, bench: PublishBench) -> dict[str, PublishedRow]:
        """Read what was published, as a plain reader of this form does."""

    @abstractmethod
    async def spoil(self, bench: PublishBench) -> None:
        """Make what is published differ from the index, behind the publication's back."""

    async def assert_in_step(self, bench: PublishBench) -> None:
        """Check that a reader finds the rows of the index."""
        found = await self.read(bench)
        assert sorted(found) == sorted(bench.rows)
        for name, row in bench.rows.items():
            assert found[name].document == row.document
            assert dict(found[name].metadata) == dict(row.metadata), name
            assert np.allclose(found[name].vector, row.vector, atol=CLOSE), name

    async def test_publication_of_a_collection_has_its_rows(self, publish_bench: PublishBench) -> None:
        """Ids, documents, metadata of every type and vectors are those of the index."""
        version = await publish_bench.commit(
            {
                "a": ("first", {"number": 1, "share": 0.5, "good": True, "name": "Ann"}),
                "b": ("second", {}),
                "empty": ("", {"kind": "blank"}),
                "unicode": ("größer \U0001f600", {"größe": "日本", "large": 2**53}),
            }
        )
        done = await publish_bench.publish(self.open(publish_bench))
        assert (done.version, done.rows, done.upserts, done.already) == (version, 4, 4, False)
        await self.assert_in_step(publish_bench)

    async def test_publication_after_a_commit_has_what_changed(self, publish_bench: PublishBench) -> None:
        """Only rows that changed are written."""
        publication = self.open(publish_bench)
        await publish_bench.commit(numbered(40, color="red"))
        await publish_bench.publish(publication)
        await publish_bench.commit(
            {"row-00001": ("edited", {"color": "blue"}), **texts("new", color="green")}, "row-00002"
        )
        done = await publish_bench.publish(publication)
        assert done.rows == 40
        if not self.WHOLE:
            assert (done.upserts, done.deletes, done.rebuilt) == (2, 1, "")
        await self.assert_in_step(publish_bench)

    async def test_publication_of_a_row_without_a_metadata_key_loses_the_key(
        self, publish_bench: PublishBench
    ) -> None:
        """Chroma merges metadata: a key that went has to be removed by name."""
        publication = self.open(publish_bench)
        await publish_bench.commit(numbered(40, color="red", size=3))
        await publish_bench.publish(publication)
        await publish_bench.commit({"row-00001": ("text", {"size": 4}), "row-00002": ("other", {})})
        await publish_bench.publish(publication)
        await self.assert_in_step(publish_bench)

    async def test_publication_of_a_row_that_came_back_is_whole(self, publish_bench: PublishBench) -> None:
        """A row that was deleted and added again has nothing of its earlier self."""
        publication = self.open(publish_bench)
        await publish_bench.commit(numbered(40, color="red"))
        await publish_bench.publish(publication)
        await publish_bench.commit({}, "row-00001")
        await publish_bench.publish(publication)
        await publish_bench.commit({"row-00001": ("back", {"size": 1})})
        await publish_bench.publish(publication)
        await self.assert_in_step(publish_bench)

    async def test_publication_of_a_published_version_does_nothing(self, publish_bench: PublishBench) -> None:
        """Publishing twice is safe and cheap."""
        publication = self.open(publish_bench)
        await publish_bench.commit(numbered(3))
        first = await publish_bench.publish(publication)
        again = await publish_bench.publish(publication)
        assert (again.already, again.place, again.rows) == (True, first.place, 3)

    async def test_publication_of_an_older_version_does_not_replace_a_newer_one(
        self, publish_bench: PublishBench
    ) -> None:
        """The index's number decides, not the order of publishing."""
        publication = self.open(publish_bench)
        old = await publish_bench.commit(numbered(3))
        await publish_bench.commit(texts("new"))
        newest = await publish_bench.publish(publication)
        done = await publish_bench.publish(publication, old)
        assert (done.already, done.version, done.place) == (True, newest.version, newest.place)
        await self.assert_in_step(publish_bench)

    async def test_publication_after_a_rollback_follows_it(self, publish_bench: PublishBench) -> None:
        """A rollback is a newer version with older rows."""
        publication = self.open(publish_bench)
        old = await publish_bench.commit(numbered(40))
        before = dict(publish_bench.rows)
        await publish_bench.publish(publication)
        await publish_bench.commit({"row-00001": ("edited", {}), **texts("new")}, "row-00002")
        await publish_bench.publish(publication)
        await restore(await publish_bench.live(), old, datasets=publish_bench.datasets)
        publish_bench.rows = before
        await publish_bench.publish(publication)
        await self.assert_in_step(publish_bench)

    async def test_publication_of_an_index_built_again_has_its_rows(
        self, publish_bench: PublishBench
    ) -> None:
        """An index that was dropped and filled again reaches the same numbers with other rows."""
        publication = self.open(publish_bench)
        await publish_bench.commit(numbered(40, color="red"))
        first = await publish_bench.publish(publication)
        await publish_bench.drop_index()
        again = await publish_bench.commit({**numbered(39, color="blue"), **texts("new")})
        assert again == first.version
        done = await publish_bench.publish(publication)
        assert not done.already
        await self.assert_in_step(publish_bench)
        assert (await publish_bench.publish(publication)).already

    async def test_publication_of_an_emptied_collection_is_empty(self, publish_bench: PublishBench) -> None:
        """No row is left behind."""
        publication = self.open(publish_bench)
        await publish_bench.commit(numbered(3))
        await publish_bench.publish(publication)
        await publish_bench.commit({}, *numbered(3))
        done = await publish_bench.publish(publication)
        assert done.rows == 0
        await self.assert_in_step(publish_bench)

    async def test_publication_reconciled_after_damage_has_the_rows_again(
        self, publish_bench: PublishBench
    ) -> None:
        """What drifted is found and fixed, once."""
        publication = self.open(publish_bench)
        await publish_bench.commit(numbered(40, color="red"))
        await publish_bench.publish(publication)
        await self.spoil(publish_bench)
        publish_bench.clock.advance(seconds=1)
        done = await publication.reconcile(await publish_bench.live(), await publish_bench.version())
        assert not done.already
        await self.assert_in_step(publish_bench)
        publish_bench.clock.advance(seconds=1)
        again = await publication.reconcile(await publish_bench.live(), await publish_bench.version())
        assert again.already

    async def test_publication_of_an_older_version_over_damage_has_the_newest_rows(
        self, publish_bench: PublishBench
    ) -> None:
        """A slow process that replaces what is damaged does not bring back what readers have seen replaced."""
        publication = self.open(publish_bench)
        old = await publish_bench.commit(numbered(3))
        await publish_bench.commit({"row-00001": ("edited", {}), **texts("new")}, "row-00002")
        newest = await publish_bench.publish(publication)
        await self.spoil(publish_bench)
        publish_bench.clock.advance(seconds=1)
        done = await publication.reconcile(await publish_bench.live(), old)
        assert done.version == newest.version
        await self.assert_in_step(publish_bench)

    async def test_publications_at_once_end_in_the_newest_version(self, publish_bench: PublishBench) -> None:
        """Each may be refused, and then changes nothing; afterwards one more publication is enough."""
        await publish_bench.commit(numbered(40))
        await publish_bench.publish(self.open(publish_bench))
        old = await publish_bench.version()
        new = await publish_bench.commit({"row-00001": ("edited", {})})
        live = await publish_bench.live()
        done = await asyncio.gather(
            *(self.open(publish_bench).publish(live, version) for version in (old, new, new)),
            return_exceptions=True,
        )
        assert any(not isinstance(each, BaseException) for each in done), done
        await publish_bench.publish(self.open(publish_bench))
        await self.assert_in_step(publish_bench)


def metadata_of(text: str | None) -> dict[str, Scalar]:
    """Parse metadata that was stored as JSON text."""
    found: dict[str, Scalar] = json.loads(text) if text else {}
    return found


__all__ = ["PublicationContract", "PublishBench", "PublishedRow", "metadata_of", "numbered", "texts"]
