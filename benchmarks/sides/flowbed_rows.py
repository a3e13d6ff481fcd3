"""Flowbed's side with existing vectors: builds an index, publishes changed rows, searches vectors."""

from __future__ import annotations

import asyncio
import itertools
import shutil
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import psutil

import flowbed
from benchmarks.sides.rows import RowFiles, row_of
from benchmarks.sides.serve import serve
from flowbed.index.commit import commit
from flowbed.index.deltas import Upsert, write_delta
from flowbed.ledger import ChunkRow, DocumentRow, RunRow, Swap
from flowbed.records import Status, text_hash
from flowbed.wiring.process import set_up

if TYPE_CHECKING:
    from collections.abc import Sequence

    from benchmarks.sides.rows import Batch
    from flowbed.bed import Flowbed
    from flowbed.index.deltas import Delta
    from flowbed.lanes.contexts import RunContext

COLLECTION = "rows"
RUN_ROWS = 8_192  # the rows of a run of the pipeline


class Opened:
    """One project and its rows."""

    def __init__(self) -> None:
        """Open nothing yet."""
        self._loop = asyncio.Runner()
        self._bed: Flowbed | None = None
        self._rows: RowFiles | None = None
        self._folder = Path()

    def begin(self, folder: str, rows: str, model: str) -> None:
        """Create an empty project."""
        shutil.rmtree(folder, ignore_errors=True)
        Path(folder).mkdir(parents=True)
        Path(folder, "flowbed.toml").write_text(f'model = "{model}"\n', encoding="utf-8")
        self.open(folder, rows)

    def open(self, folder: str, rows: str) -> None:
        """Open an existing project."""
        self._folder, self._rows = Path(folder), RowFiles(rows)
        self._bed = self._loop.run(_opened(self._folder))

    def build(self, count: int) -> dict[str, float]:
        """Index the first `count` rows from nothing, until a reader that opens the project has an answer."""
        return self._loop.run(self._build(count))

    def add(self, start: int, stop: int, commits: int) -> None:
        """Commit more rows in `commits` commits, and leave the vector index as it is."""
        edges = np.linspace(start, stop, commits + 1, dtype=int)
        for first, last in itertools.pairwise(edges):
            self._loop.run(self._commit(range(first, last)))

    def publish(self, count: int, changed: int, edition: int) -> dict[str, Any]:
        """Change random rows and publish them with existing vectors; return one of them, for a reader to find."""
        return self._loop.run(self._publish(count, changed, edition))

    def look(self, row: int, edition: int) -> float:
        """Open the project again and find a changed row; return the seconds that took."""
        batch = self.files.batch([row], edition=edition)
        began = time.perf_counter()
        self._loop.run(self._seen(batch.vectors[0], batch.documents[0]))
        return time.perf_counter() - began

    def search(self, start: int, stop: int, where: dict[str, Any] | None = None) -> dict[str, Any]:
        """Search for queries one after the other; return milliseconds, and the rows found."""
        return self._loop.run(self._search(self.files.queries[start:stop], where))

    def texts(self, start: int, stop: int) -> dict[str, Any]:
        """Search for the texts of queries, each embedded during the search."""
        return self._loop.run(self._search(self.files.query_texts[start:stop], None))

    @property
    def files(self) -> RowFiles:
        """The rows."""
        assert self._rows is not None  # noqa: S101 - opened first
        return self._rows

    @property
    def bed(self) -> Flowbed:
        """The project."""
        assert self._bed is not None  # noqa: S101 - opened first
        return self._bed

    @property
    def context(self) -> RunContext:
        """The project's context: existing vectors take an embedder's place, which no public call accepts."""
        return self.bed._context()  # noqa: SLF001

    async def _build(self, count: int) -> dict[str, float]:
        batches = [
            self.files.batch(range(start, min(start + RUN_ROWS, count)))
            for start in range(0, count, RUN_ROWS)
        ]
        began = time.perf_counter()
        for batch in batches:
            await self._record(batch, await self._delta(batch, self.context.clock()))
        laid = time.perf_counter()
        await self._merge()
        merged = time.perf_counter()
        await self.bed.compact(COLLECTION, vector_index="always")
        indexed = time.perf_counter()
        await self._seen(batches[-1].vectors[-1], batches[-1].documents[-1])
        done = time.perf_counter()
        return {
            "seconds": done - began,
            "deltas": laid - began,
            "commit": merged - laid,
            "index": indexed - merged,
            "reader": done - indexed,
        }

    async def _publish(self, count: int, changed: int, edition: int) -> dict[str, Any]:
        chosen = np.random.default_rng(edition).choice(count, changed, replace=False)
        batch = self.files.batch(np.sort(chosen), edition=edition)
        version = await self._claim(batch, edition)
        before, wrote = sizes(self._folder / ".flowbed" / "store"), psutil.Process().io_counters().write_chars
        began = time.perf_counter()
        delta = await self._delta(batch, version)
        laid = time.perf_counter()
        await self._record(batch, delta)
        recorded = time.perf_counter()
        await self._merge()
        done = time.perf_counter()
        after = sizes(self._folder / ".flowbed" / "store")
        return {
            "seconds": done - began,
            "delta": laid - began,
            "ledger": recorded - laid,
            "commit": done - recorded,
            "row": int(np.min(chosen)),
            "files": sum(each[0] for path, each in after.items() if before.get(path) != each),
            "written": psutil.Process().io_counters().write_chars - wrote,
        }

    async def _commit(self, rows: Sequence[int]) -> None:
        batch = self.files.batch(rows)
        await self._record(batch, await self._delta(batch, self.context.clock()))
        await self._merge()

    async def _delta(self, batch: Batch, version: int) -> tuple[Delta, int]:
        context = self.context
        upserts = [
            Upsert(
                id=key,
                version=version,
                document=document,
                metadata=about,
                text_hash=text_hash(document),
                vector=vector,
            )
            for key, document, about, vector in zip(
                batch.ids, batch.documents, batch.metadata, batch.vectors, strict=True
            )
        ]
        space = context.embedder().space
        delta = await write_delta(context.store, COLLECTION, space, upserts, [], now=version)
        return delta, version

    async def _record(self, batch: Batch, laid: tuple[Delta, int]) -> None:
        context, (delta, version) = self.context, laid
        run = RunRow(
            id=delta.run,
            collection=COLLECTION,
            space=context.embedder().space.to_json(),
            key=delta.key,
            sha256=delta.sha256,
            rows=delta.rows,
            lane="realtime",
            worker=context.worker,
            created=context.clock(),
        )
        await context.ledger.runs.record(run, [(key, version) for key in batch.ids], worker=context.worker)

    async def _claim(self, batch: Batch, edition: int) -> int:
        """Register the chunks to publish in the ledger, as a fetch does; return their version."""
        context, now = self.context, self.context.clock()
        name = f"batch {edition}"
        documents = {row_of(key) // 10 for key in batch.ids}
        await context.ledger.documents.swap(
            Swap(
                cursor=await context.ledger.documents.cursor(COLLECTION),
                value=name,
                documents=[
                    DocumentRow(
                        source=COLLECTION, id=f"{each:07d}", etag="", hash="", chunks=10, generation=now
                    )
                    for each in sorted(documents)
                ],
                chunks=[
                    ChunkRow(
                        collection=COLLECTION,
                        id=key,
                        source=COLLECTION,
                        document=key.split("#")[1],
                        ordinal=row_of(key) % 10,
                        tokens=8,
                        text_hash=text_hash(document),
                        row_hash="",
                        version=now,
                        batch=name,
                    )
                    for key, document in zip(batch.ids, batch.documents, strict=True)
                ],
            )
        )
        claimed = await context.ledger.chunks.claim(
            [name],
            {Status.NONE},
            worker=context.worker,
            now=now,
            until=now + 60_000_000,
            sources=[COLLECTION],
            limit=len(batch.ids),
        )
        if len(claimed) != len(batch.ids):
            raise LookupError(f"{len(claimed)} of {len(batch.ids)} chunks were claimed")
        return now

    async def _merge(self) -> None:
        context = self.context
        await commit(
            COLLECTION,
            store=context.store,
            ledger=context.ledger,
            collections=context.collections,
            datasets=context.datasets,
            clock=context.clock,
        )

    async def _seen(self, vector: Any, document: str) -> None:  # float32 of (dimensions,)
        async with await flowbed.aopen(self._folder) as reader:
            hits = await reader.search(vector, collection=COLLECTION, limit=1)
        if hits[0].document != document:
            raise LookupError(f"{document!r} is not found: {hits}")

    async def _search(self, queries: Sequence[Any], where: dict[str, Any] | None) -> dict[str, Any]:
        taken, found = [], []
        for query in queries:
            began = time.perf_counter()
            hits = await self.bed.search(query, collection=COLLECTION, where=where, limit=10)
            taken.append((time.perf_counter() - began) * 1e3)
            found.append([row_of(hit.id) for hit in hits])
        return {"ms": taken, "found": found}


async def _opened(folder: Path) -> Flowbed:
    return await flowbed.aopen(folder)


def sizes(folder: Path) -> dict[str, tuple[int, int]]:
    """Return the size and modification time of every file below a folder."""
    found = {}
    for path in folder.rglob("*"):
        if path.is_file():
            stat = path.stat()
            found[str(path)] = (stat.st_size, stat.st_mtime_ns)
    return found


if __name__ == "__main__":
    set_up()  # as the command does it
    opened = Opened()
    serve(
        {
            "begin": opened.begin,
            "open": opened.open,
            "build": opened.build,
            "add": opened.add,
            "look": opened.look,
            "publish": opened.publish,
            "search": opened.search,
            "texts": opened.texts,
        }
    )
