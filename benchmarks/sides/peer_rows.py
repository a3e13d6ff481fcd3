"""chromadb's side with existing vectors: loaded the fastest way known, copied to publish, queried."""

from __future__ import annotations

import os
import shutil
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

os.environ.setdefault("ANONYMIZED_TELEMETRY", "False")

import itertools

import chromadb
import numpy as np

from benchmarks.sides.peer_texts import load, model
from benchmarks.sides.rows import RowFiles, row_of
from benchmarks.sides.serve import serve

if TYPE_CHECKING:
    from collections.abc import Sequence

COLLECTION = "rows"


class Opened:
    """One client, its collection and its rows."""

    def __init__(self) -> None:
        """Open nothing yet."""
        self._client: Any = None
        self._collection: Any = None
        self._files: RowFiles | None = None
        self._store = ""

    def build(self, store: str, rows: str, count: int, add_size: int) -> dict[str, float]:
        """Load the first `count` rows into a new folder, until a client that opens it has an answer.

        A new collection, `add` and never `upsert`, float32 arrays, no embedding function, one process.
        """
        shutil.rmtree(store, ignore_errors=True)
        files = RowFiles(rows)
        edges = [*range(0, count, add_size), count]
        batches = [files.batch(range(start, stop)) for start, stop in itertools.pairwise(edges)]
        began = time.perf_counter()
        client = chromadb.PersistentClient(store)
        collection = client.create_collection(
            COLLECTION, embedding_function=None, configuration={"hnsw": {"space": "cosine"}}
        )
        for batch in batches:
            collection.add(
                ids=list(batch.ids),
                embeddings=batch.vectors,
                documents=list(batch.documents),
                metadatas=list(batch.metadata),
            )
        client.close()
        added = time.perf_counter()
        self._seen(store, batches[-1].vectors[-1], batches[-1].documents[-1])
        done = time.perf_counter()
        return {"seconds": done - began, "add": added - began, "reader": done - added}

    def open(self, store: str, rows: str) -> None:
        """Open an existing folder."""
        self._files, self._store = RowFiles(rows), store
        self._connect()

    def ef(self, ef_search: int) -> None:
        """Set ef_search; it takes effect when the folder is next opened."""
        self._collection.modify(configuration={"hnsw": {"ef_search": ef_search}})
        self._client.close()
        self._connect()

    def add(self, start: int, stop: int, commits: int) -> None:
        """Add more rows in `commits` calls."""
        edges = np.linspace(start, stop, commits + 1, dtype=int)
        for first, last in itertools.pairwise(edges):
            batch = self.files.batch(range(first, last))
            self._collection.add(
                ids=list(batch.ids),
                embeddings=batch.vectors,
                documents=list(batch.documents),
                metadatas=list(batch.metadata),
            )

    def publish(
        self, store: str, rows: str, work: str, *, count: int, changed: int, edition: int, add_size: int
    ) -> dict[str, Any]:
        """Change random rows: copy the folder, upsert, copy it back, and find one through a new client."""
        files = RowFiles(rows)
        chosen = np.random.default_rng(edition).choice(count, changed, replace=False)
        batch = files.batch(np.sort(chosen), edition=edition)
        near, published = Path(work) / f"copy-{edition}", Path(work) / f"published-{edition}"
        began = time.perf_counter()
        shutil.copytree(store, near)
        fetched = time.perf_counter()
        client = chromadb.PersistentClient(str(near))
        collection = client.get_collection(COLLECTION, embedding_function=None)
        for start in range(0, changed, add_size):
            stop = start + add_size
            collection.upsert(
                ids=list(batch.ids[start:stop]),
                embeddings=batch.vectors[start:stop],
                documents=list(batch.documents[start:stop]),
                metadatas=list(batch.metadata[start:stop]),
            )
        client.close()
        upserted = time.perf_counter()
        shutil.copytree(near, published)
        copied = time.perf_counter()
        self._seen(str(published), batch.vectors[0], batch.documents[0])
        done = time.perf_counter()
        size = sum(path.stat().st_size for path in published.rglob("*") if path.is_file())
        shutil.rmtree(near)
        shutil.rmtree(published)
        return {
            "seconds": done - began,
            "copy": fetched - began,
            "upsert": upserted - fetched,
            "copy back": copied - upserted,
            "reader": done - copied,
            "files": size,
        }

    def search(self, start: int, stop: int, where: dict[str, Any] | None = None) -> dict[str, Any]:
        """Query for vectors one after the other; return milliseconds, and the rows found."""
        return self._search(self.files.queries[start:stop], where)

    def texts(self, folder: str, start: int, stop: int) -> dict[str, Any]:
        """Query for texts, each embedded during the query."""
        encoder = model(folder)
        taken, found = [], []
        for text in self.files.query_texts[start:stop]:
            began = time.perf_counter()
            answer = self._query(encoder.encode([text], batch_size=1)[0], None)
            taken.append((time.perf_counter() - began) * 1e3)
            found.append([row_of(key) for key in answer["ids"][0]])
        return {"ms": taken, "found": found}

    @property
    def files(self) -> RowFiles:
        """The rows."""
        assert self._files is not None  # noqa: S101 - opened first
        return self._files

    def _connect(self) -> None:
        self._client = chromadb.PersistentClient(self._store)
        self._collection = self._client.get_collection(COLLECTION, embedding_function=None)

    def _search(self, queries: Sequence[Any], where: dict[str, Any] | None) -> dict[str, Any]:
        taken, found = [], []
        for query in queries:
            began = time.perf_counter()
            answer = self._query(query, where)
            taken.append((time.perf_counter() - began) * 1e3)
            found.append([row_of(key) for key in answer["ids"][0]])
        return {"ms": taken, "found": found}

    def _query(self, vector: Any, where: dict[str, Any] | None) -> Any:
        return self._collection.query(
            query_embeddings=vector[None],
            n_results=10,
            where=where,
            include=["documents", "metadatas", "distances"],
        )

    def _seen(self, store: str, vector: Any, document: str) -> None:  # float32 of (dimensions,)
        reader = chromadb.PersistentClient(store)
        found = reader.get_collection(COLLECTION, embedding_function=None).query(
            query_embeddings=vector[None], n_results=1, include=["documents", "metadatas", "distances"]
        )
        reader.close()
        if found["documents"][0][0] != document:
            raise LookupError(f"{document!r} is not found: {found}")


if __name__ == "__main__":
    opened = Opened()
    serve(
        {
            "load": load,
            "build": opened.build,
            "open": opened.open,
            "ef": opened.ef,
            "add": opened.add,
            "publish": opened.publish,
            "search": opened.search,
            "texts": opened.texts,
        }
    )
