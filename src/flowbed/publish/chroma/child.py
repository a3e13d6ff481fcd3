"""The process that opens Chroma directories: `python -m flowbed.publish.chroma.child REQUEST RESPONSE`.

A damaged directory ends the process that opens it with a segmentation fault, and Chroma keeps memory and caches per
path. So only this process imports chromadb, at once. With the first line on its standard input it reads a request
(JSON), and writes a response (JSON). It ends when the process that started it does: then its standard input ends.
"""

from __future__ import annotations

import json
import os
import signal
import sqlite3
import sys
import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from flowbed.index.search.row_cache import vectors_in
from flowbed.publish.chroma.rows import chroma_metadata

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from chromadb import Collection
    from chromadb.api import ClientAPI
    from numpy.typing import NDArray

DATABASE = "chroma.sqlite3"
# Operations after which Chroma writes its graph. Those since then are in SQLite only, and every reader replays them
# with its first query. While this process writes, every batch is followed by one: the last leaves nothing to replay.
EVERY_BATCH, DEFAULT = 2, 1_000
IDS = 2_000  # ids of one deletion
ROWS = 5_000  # rows of one addition: Chroma takes 5,461, and is as fast from a few hundred on


def build(
    directory: str, collection: str, rows: str, deleted: Sequence[str], graph: dict[str, int], *, fresh: bool
) -> dict[str, Any]:
    """Write rows into a collection, new or existing; return how many it has then, and how many are not in its graph.

    `graph` are settings of a new graph. Changed rows are deleted and added: an upsert would keep metadata keys that
    went, and takes five times as long.
    """
    client, table = _created(directory, collection, graph) if fresh else _opened(directory, collection)
    try:
        gone = list(deleted)
        if not fresh:
            table.modify(configuration={"hnsw": {"sync_threshold": EVERY_BATCH, "batch_size": EVERY_BATCH}})
            _close(client)
            client, table = _opened(directory, collection)  # the threshold is read when the graph is
            gone += [each for batch in _batches(rows) for each in batch["id"].to_pylist()]
        for start in range(0, len(gone), IDS):
            table.delete(ids=gone[start : start + IDS])
        for batch in spread(list(_batches(rows))):
            _add(table, batch)
        table.modify(configuration={"hnsw": {"sync_threshold": DEFAULT, "batch_size": 100}})
        count = table.count()
    finally:
        _close(client)
    return {"rows": count, "unsynced": _unsynced(directory), "chromadb": version("chromadb")}


def verify(
    directory: str, collection: str, ids: Sequence[str], vectors: str, neighbours: int, checked: str = ""
) -> dict[str, Any]:
    """Check a directory that nobody else uses, and return what a reader finds in it.

    `vectors` names a file of float32 vectors, one for each of `ids`; their nearest neighbours are searched. `checked`
    is the directory whose database SQLite checks meanwhile; by default it is the same, and checked first.
    """
    with ThreadPoolExecutor(1) as beside:
        checking = beside.submit(integrity, Path(checked or directory) / DATABASE)
        if not checked and (fault := checking.result()):
            return {"fault": fault}
        found = _found(directory, collection, ids, vectors, neighbours)
        return {**found, "fault": checking.result()}


def _found(
    directory: str, collection: str, ids: Sequence[str], vectors: str, neighbours: int
) -> dict[str, Any]:
    client, table = _opened(directory, collection)
    try:
        held = table.get(ids=list(ids), include=["documents", "metadatas", "embeddings"]) if ids else None
        asked = np.load(vectors)
        near = (
            table.query(
                query_embeddings=asked, n_results=min(neighbours, table.count()), include=["distances"]
            )
            if len(asked)
            else None
        )
        return {
            "rows": table.count(),
            "ids": held["ids"] if held else [],
            "documents": held["documents"] if held else [],
            "metadatas": held["metadatas"] if held else [],
            "vectors": np.asarray(held["embeddings"], np.float32).tolist() if held else [],
            "near": near["ids"] if near else [],
            "distances": near["distances"] if near else [],
        }
    finally:
        _close(client)


def integrity(database: Path) -> str:
    """Say what SQLite finds wrong with a database; an empty text if nothing."""
    if not database.is_file():
        return f"there is no {DATABASE}"
    try:
        opened = sqlite3.connect(f"file:{database}?mode=ro", uri=True)
        try:
            found = [row[0] for row in opened.execute("PRAGMA integrity_check(3)")]
        finally:
            opened.close()
    except sqlite3.DatabaseError as error:
        return f"{DATABASE} cannot be read: {error}"
    return "" if found == ["ok"] else f"{DATABASE} is damaged: {found[0]}"


def _client(directory: str) -> ClientAPI:
    import chromadb
    from chromadb.config import Settings

    return chromadb.PersistentClient(directory, settings=Settings(anonymized_telemetry=False))


def _close(client: Any) -> None:  # its interface does not declare `close`, which all clients have
    client.close()


def _created(directory: str, collection: str, graph: dict[str, int]) -> tuple[ClientAPI, Collection]:
    client = _client(directory)
    configuration: Any = {
        "hnsw": {"space": "cosine", "sync_threshold": EVERY_BATCH, "batch_size": EVERY_BATCH, **graph}
    }
    return client, client.create_collection(collection, configuration=configuration, embedding_function=None)


def _opened(directory: str, collection: str) -> tuple[ClientAPI, Collection]:
    client = _client(directory)
    return client, client.get_collection(collection, embedding_function=None)


def _add(table: Collection, batch: pa.RecordBatch) -> None:
    metadatas: Any = [chroma_metadata(text) for text in batch["metadata"].to_pylist()]
    table.add(
        ids=batch["id"].to_pylist(),
        embeddings=vectors_in(batch),
        documents=batch["document"].to_pylist(),
        metadatas=metadatas,
    )


def spread(batches: Sequence[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    """Iterate over rows so that those of one vector are far apart: one of each vector first, then the second of each.

    Rows of one vector that follow each other become neighbours of only each other in Chroma's graph, and a search does
    not find the way to them.
    """
    seen: Counter[int] = Counter()
    rounds: list[NDArray[np.int64]] = []
    for batch in batches:
        turns = []
        for vector in vectors_in(batch) if batch.num_rows else ():
            key = hash(vector.tobytes())
            turns.append(seen[key])
            seen[key] += 1
        rounds.append(np.array(turns, np.int64))
    sizes = [batch.num_rows for batch in batches]
    order = np.argsort(np.concatenate([np.empty(0, np.int64), *rounds]), kind="stable")
    ends = np.cumsum(sizes)
    for start in range(0, len(order), ROWS):
        some = order[start : start + ROWS]
        within = np.searchsorted(ends, some, side="right")
        edges = np.flatnonzero(np.diff(within)) + 1
        parts = [
            batches[number].take(pa.array(places - (ends[number] - sizes[number])))
            for number, places in zip(
                within[np.concatenate([[0], edges])], np.split(some, edges), strict=True
            )
        ]
        yield pa.concat_batches(parts)


def _batches(rows: str) -> Iterator[pa.RecordBatch]:
    with pa.memory_map(rows) as file:
        yield from pa.ipc.open_stream(file)


def _unsynced(directory: str) -> int:
    """Count operations that the graph does not hold yet, from Chroma's own tables; 0 if it has others now."""
    opened = sqlite3.connect(Path(directory) / DATABASE)
    try:
        (last,) = opened.execute("SELECT max(seq_id) FROM embeddings_queue").fetchone()
        (synced,) = opened.execute("SELECT min(seq_id) FROM max_seq_id").fetchone()
    except sqlite3.OperationalError:
        return 0
    finally:
        opened.close()
    return int(last or 0) - int(synced or 0)


def _end_with_parent() -> None:
    while os.read(0, 1):
        pass
    os.kill(os.getpid(), signal.SIGKILL)  # nobody will use the result


WORK: dict[str, Callable[..., dict[str, Any]]] = {"build": build, "verify": verify}


def main(request: str, response: str) -> None:
    """Load chromadb, and do what a request says as soon as it is there."""
    import chromadb  # noqa: F401 - while the directory is copied

    # Not the buffered `sys.stdin`: its lock would end the process with a fatal error when the work is done.
    if not os.read(0, 1):
        return  # it is not needed
    threading.Thread(target=_end_with_parent, daemon=True).start()
    asked = json.loads(Path(request).read_text("utf-8"))
    answer = WORK[asked.pop("work")](**asked)
    Path(response).write_text(json.dumps(answer), "utf-8")


if __name__ == "__main__":
    main(*sys.argv[1:])
