"""The process that reads a Chroma directory: chromadb may crash on damaged files, and archives may be hostile.

It takes a job as JSON on its command line, works only in the folder of the job, and writes frames to standard output:
a kind of one byte, a length of eight, and the content. Rows are Arrow streams, everything else is JSON.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import resource
import signal
import struct
import sys
import threading
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import numpy as np

from flowbed.publish.reading.archives import RefusedError, chroma_folder, unpack
from flowbed.publish.reading.stored import UNKNOWN, stored_rows

if TYPE_CHECKING:
    from chromadb.api import ClientAPI
    from chromadb.api.models.Collection import Collection
    from numpy.typing import NDArray

    from flowbed.publish.reading.stored import Ask, StoredRows

FRAME = struct.Struct("<cQ")
ROWS, HEADER, REFUSED, FAILED = b"R", b"H", b"X", b"F"
# Errors of this machine, which say nothing about the data. A file that grows too large (EFBIG) is not among them: how
# large it may be is a limit of the job.
MACHINE = frozenset(
    {
        errno.ENOSPC,
        errno.EDQUOT,
        errno.EACCES,
        errno.EPERM,
        errno.EROFS,
        errno.EIO,
        errno.EMFILE,
        errno.ENFILE,
    }
)
# How SQLite says that a disk is full.
DISK_FULL = "disk is full"
MESSAGE = 500  # characters of an error of chromadb's
EVERYTHING: Any = ["embeddings", "documents", "metadatas"]
COMPARED = 64  # rows that are read from the files and by chromadb too
ROUNDED = 1e-6  # how far two roundings of a number of a unit vector may be apart


@dataclass(frozen=True, kw_only=True)
class Job:
    """What to read: the Chroma directory in `folder`, into which `archive` is unpacked first, if it is given.

    `collection` is a collection of that directory, the only one if empty; `preferred` is taken if it is there. With
    `checked` the directory is not opened before its files were found to be of chromadb's form. With `unit`, the lengths
    of vectors do not count. 0 is no limit.
    """

    folder: str
    archive: str = ""
    collection: str = ""
    preferred: str = ""
    checked: bool = True
    unit: bool = False
    page: int = 4_096
    most_bytes: int = 0
    memory_bytes: int = 0
    seconds: int = 0

    def to_json(self) -> str:
        """Return the job as JSON."""
        return json.dumps(asdict(self))


def _end_with_parent() -> None:
    while os.read(0, 1):
        pass
    os.kill(os.getpid(), signal.SIGKILL)  # nobody reads the rows


def main(argument: str) -> int:
    """Load chromadb, and carry out a job after the first line of standard input; a refusal is a frame too.

    The process ends when its standard input does.
    """
    with contextlib.suppress(ImportError):  # the job says what is missing
        import chromadb  # noqa: F401 - while the directory is made
    if not os.read(0, 1):
        return 0  # it is not needed
    threading.Thread(target=_end_with_parent, daemon=True).start()
    # What libraries print must not come between the frames.
    frames = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    try:
        read(Job(**json.loads(argument)), frames)
    except RefusedError as error:
        _send(frames, REFUSED, {"reason": str(error)})
    except MemoryError:
        _send(frames, REFUSED, {"reason": "reading it needs more memory than is allowed"})
    except OSError as error:
        if error.errno in MACHINE:
            _send(frames, FAILED, {"errno": error.errno, "file": str(error.filename or "")})
        else:
            _send(frames, REFUSED, {"reason": f"its files cannot be read or unpacked: {error}"})
    frames.close()
    return 0


def read(job: Job, frames: IO[bytes]) -> None:
    """Unpack and check a directory, and write its rows.

    Raises:
        RefusedError: it cannot be accepted.
        OSError: a file cannot be read or written.
    """
    _limit(job)
    folder = Path(job.folder)
    if job.archive:
        unpack(Path(job.archive), folder, most_bytes=job.most_bytes)
    place = chroma_folder(folder)
    if job.checked:
        from flowbed.publish.reading.database import check_database, check_vectors

        check_database(place)
        check_vectors(place)
    try:
        import chromadb
        from chromadb.config import Settings
    except ImportError as error:
        raise RefusedError(
            f"reading it needs the package chromadb ({error}): pip install 'flowbed[chroma]'"
        ) from error
    try:
        client = chromadb.PersistentClient(
            path=str(place), settings=Settings(anonymized_telemetry=False, allow_reset=False)
        )
        _read(client, job, frames, place)
    except (RefusedError, MemoryError):
        raise
    except Exception as error:
        # Its errors are of many classes, some of them of its native part, and all but one mean the same here.
        if DISK_FULL in str(error):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(place)) from error
        raise RefusedError(
            f"chromadb cannot read it: {type(error).__name__}: {str(error)[:MESSAGE]}"
        ) from error


def _limit(job: Job) -> None:
    for what, most in (
        (resource.RLIMIT_AS, job.memory_bytes),
        (resource.RLIMIT_FSIZE, job.most_bytes),
        (resource.RLIMIT_CPU, job.seconds),
        (resource.RLIMIT_CORE, 0),
    ):
        if most or what == resource.RLIMIT_CORE:
            resource.setrlimit(what, (most, most))


def _read(client: ClientAPI, job: Job, frames: IO[bytes], place: Path) -> None:
    collection = _collection(client, job)
    total = collection.count()
    _send(frames, HEADER, {"collection": collection.name, "rows": total})
    stored = _stored(collection, job, place) if total else None
    done = 0
    if stored is not None:
        for rows in stored.pages(job.page):
            _send_rows(frames, rows.ids, rows.documents, rows.metadata, rows.vectors)
            done += len(rows.ids)
    while done < total:
        page = collection.get(limit=job.page, offset=done, include=EVERYTHING)
        if not page["ids"]:
            raise RefusedError(f"it has {total:,} rows, and only {done:,} can be read")
        _send_rows(frames, *_columns(page))
        done += len(page["ids"])


def _stored(collection: Collection, job: Job, place: Path) -> StoredRows | None:
    """Open the files that hold the rows, if chromadb finds the same in them as we do."""

    def ask(ids: list[str]) -> NDArray[np.float32]:
        answer = collection.get(ids=ids, include=["embeddings"])
        known = dict(zip(answer["ids"], np.asarray(answer["embeddings"]), strict=True))
        return np.array([known[each] for each in ids], np.float32)

    found = stored_rows(place, str(collection.id), ask)
    try:
        return found if found is not None and _agrees(found, collection, ask, unit=job.unit) else None
    except UNKNOWN:
        return None


def _agrees(found: StoredRows, collection: Collection, ask: Ask, *, unit: bool) -> bool:
    """Return whether chromadb answers the same as its files; with `unit`, the lengths of vectors do not count."""
    ids, vectors = found.sample(COMPARED)
    known = ask(ids)
    same = bool(np.array_equal(vectors, known)) or (
        unit and bool(np.allclose(_unit(vectors), _unit(known), atol=ROUNDED))
    )
    names, documents, metadata, _ = _columns(collection.get(limit=COMPARED, include=EVERYTHING))
    first = next(found.pages(COMPARED))
    plain = [list(map(json.loads, each)) for each in (first.metadata, metadata)]
    return same and (first.ids, first.documents) == (names, documents) and plain[0] == plain[1]


def _unit(vectors: NDArray[np.float32]) -> NDArray[np.float32]:
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    return (vectors / np.where(lengths > 0, lengths, 1)).astype(np.float32)


def _collection(client: ClientAPI, job: Job) -> Collection:
    names = sorted(each.name for each in client.list_collections())
    wanted = job.collection or (job.preferred if job.preferred in names else "")
    if not wanted and len(names) == 1:
        wanted = names[0]
    if wanted not in names:
        there = ", ".join(names) or "none"
        what = (
            f"no collection is called {wanted!r}" if wanted else "it is not clear which collection is meant"
        )
        raise RefusedError(f"{what}; there are: {there}")
    return client.get_collection(wanted, embedding_function=None)


def _columns(page: Any) -> tuple[list[str], list[str | None], list[str], NDArray[np.float32]]:
    """Return the columns of chromadb's answer to a get."""
    count = len(page["ids"])
    vectors = np.ascontiguousarray(page["embeddings"], np.float32)
    if vectors.ndim != 2 or len(vectors) != count:  # noqa: PLR2004 - rows and dimensions
        raise RefusedError("its vectors are not of one length")
    metadata = [json.dumps(each) for each in page["metadatas"] or [None] * count]
    return page["ids"], page["documents"] or [None] * count, metadata, vectors


def _send_rows(
    frames: IO[bytes],
    ids: list[str],
    documents: list[str | None],
    metadata: list[str],
    vectors: NDArray[np.float32],
) -> None:
    import pyarrow as pa

    columns = {
        "id": pa.array(ids, pa.string()),
        "document": pa.array(documents, pa.string()),
        "metadata": pa.array(metadata, pa.string()),
        "vector": pa.FixedSizeListArray.from_arrays(pa.array(vectors.ravel()), vectors.shape[1]),
    }
    sink = pa.BufferOutputStream()
    table = pa.table(columns)
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    body = sink.getvalue()
    frames.write(FRAME.pack(ROWS, len(body)))
    frames.write(body)
    frames.flush()


def _send(frames: IO[bytes], kind: bytes, content: dict[str, object]) -> None:
    body = json.dumps(content).encode()
    frames.write(FRAME.pack(kind, len(body)))
    frames.write(body)
    frames.flush()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
