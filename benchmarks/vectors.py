"""Rows to search: vectors of real texts, and points between neighbours among them if more are needed."""

from __future__ import annotations

import asyncio
import hashlib
import json
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from benchmarks.process import BENCH
from flowbed.embedding import open_embedder

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

MODEL = "onnx:sentence-transformers/all-MiniLM-L6-v2"
MODELS = BENCH / "models"
TEXTS, QUERIES = 20_000, 1_000
NEIGHBOURS = 10
NOISE = 0.1  # the length of the noise beside a vector of length 1
BUCKETS = 100  # a filter for one bucket matches 1 % of the rows
TOPICS = 10  # a filter for a topic matches 10 %: rows whose texts are about equally near to one text
SENTENCE = re.compile(r"(?<=[.!?])\s+|\n+")
EXPLAINED = """\
Real texts (lines of receipts, sentences of abstracts and of issues, chat messages) were embedded. Each further row is a
point between the vector of one of them and that of one of its ten nearest neighbours, with noise of a tenth of its
length, so rows are as dense as real texts are. Queries are texts of the same kind that are not among the rows. Both
sides get the same vectors, documents and metadata (source, document, bucket, topic, time). Buckets are random. A topic
is the tenth of the rows whose texts are nearest to one of them, as the rows of a source or a tenant might be."""


@dataclass(frozen=True, kw_only=True)
class Rows:
    """Files that both sides read: `vectors.npy`, `texts.json`, and per row `base.npy`, `buckets.npy`, `topics.npy`.

    Queries are stored beside them.
    """

    folder: Path
    count: int

    @property
    def vectors(self) -> NDArray[np.float32]:
        """Read the rows' vectors: float32 of shape (count, 384)."""
        return np.load(self.folder / "vectors.npy", mmap_mode="r")

    @property
    def buckets(self) -> NDArray[np.int64]:
        """Read the bucket of every row."""
        return np.load(self.folder / "buckets.npy")

    @property
    def topics(self) -> NDArray[np.int64]:
        """Read the topic of every row."""
        return np.load(self.folder / "topics.npy")

    @property
    def queries(self) -> NDArray[np.float32]:
        """Read the queries' vectors."""
        return np.load(self.folder / "queries.npy")


def rows_of(data: Path, count: int, *, texts: int = TEXTS) -> Rows:
    """Make `count` rows, or return those made before."""
    passages = _texts(data)
    chosen = _chosen(passages, texts + QUERIES)
    key = hashlib.sha256("\0".join([*chosen, str(count), str(NOISE), str(TOPICS)]).encode()).hexdigest()[:12]
    folder = BENCH / "data" / f"rows-{count}-{key}"
    if not (folder / "vectors.npy").exists():
        embedded = _embedded(chosen)
        _write(folder, chosen, embedded, count)
    return Rows(folder=folder, count=count)


def recall(rows: Rows, found: Sequence[Sequence[int]], *, mask: NDArray[np.bool_] | None = None) -> float:
    """Return the share of the ten nearest that was found; rows as near as the tenth count too."""
    vectors = np.asarray(rows.vectors)
    places = np.arange(len(vectors)) if mask is None else np.flatnonzero(mask)
    searched = vectors[places]
    shares = []
    for start in range(0, len(found), 100):
        queries = rows.queries[start : start + 100]
        near = searched @ queries.T
        for at, ids in enumerate(found[start : start + 100]):
            tenth = np.partition(near[:, at], -10)[-10]
            got = vectors[list(ids)] @ queries[at]
            shares.append(min(10, int((got >= tenth - 1e-5).sum())) / 10)
    return float(np.mean(shares))


def _chosen(passages: Sequence[str], count: int) -> list[str]:
    order = np.random.default_rng(7).permutation(len(passages))[:count]
    return [passages[at] for at in order]


def _texts(data: Path) -> list[str]:
    """Return every distinct short text, in a fixed order."""
    found = {text for text in _passages(data) if 2 <= len(text.split()) <= 60}
    return sorted(found)


def _passages(data: Path) -> Iterator[str]:
    with (data / "receipts.jsonl").open(encoding="utf-8") as file:
        for record in map(json.loads, file):
            yield from (line["text"] for line in record["lines"])
    with (data / "retrieval" / "corpus.jsonl").open(encoding="utf-8") as file:
        for record in map(json.loads, file):
            yield from SENTENCE.split(record["text"])
    for issue in json.loads((data / "issues.json").read_text("utf-8")):
        for text in (issue["description"] or "", *(note["body"] for note in issue.get("notes") or ())):
            yield from SENTENCE.split(text)
    for message in json.loads((data / "discord.json").read_text("utf-8"))["messages"]:
        yield from SENTENCE.split(message["content"])


def _embedded(texts: Sequence[str]) -> NDArray[np.float32]:
    """Embed texts, or read vectors that were embedded before."""
    kept = BENCH / "data" / f"texts-{hashlib.sha256(chr(0).join(texts).encode()).hexdigest()[:12]}.npy"
    if kept.exists():
        return np.load(kept)
    embedder = open_embedder(MODEL, cache=MODELS, options={})

    async def embed() -> NDArray[np.float32]:
        order = sorted(range(len(texts)), key=lambda at: len(texts[at]))
        vectors = np.empty((len(texts), embedder.space.dimensions), np.float32)
        for start in range(0, len(order), embedder.items):
            part = order[start : start + embedder.items]
            vectors[part] = (await embedder.embed([texts[at] for at in part], purpose="document")).vectors
        return vectors

    vectors = asyncio.run(embed())
    kept.parent.mkdir(parents=True, exist_ok=True)
    np.save(kept, vectors)
    return vectors


def _write(folder: Path, texts: Sequence[str], embedded: NDArray[np.float32], count: int) -> None:
    random = np.random.default_rng(11)
    known = len(texts) - QUERIES
    base, queries = embedded[:known], embedded[known:]
    near = _neighbours(base)
    owners = np.concatenate([np.arange(min(known, count)), random.integers(0, known, max(0, count - known))])
    folder.mkdir(parents=True, exist_ok=True)
    made = np.lib.format.open_memmap(
        folder / "vectors.part.npy", "w+", dtype=np.float32, shape=(count, base.shape[1])
    )
    made[: min(known, count)] = base[:count]
    for start in range(known, count, 50_000):
        mine = owners[start : start + 50_000]
        other = near[mine, random.integers(0, near.shape[1], len(mine))]
        share = random.uniform(0.2, 0.8, (len(mine), 1)).astype(np.float32)
        noise = random.standard_normal((len(mine), base.shape[1]), np.float32)
        noise *= NOISE / np.sqrt(base.shape[1])
        points = share * base[mine] + (1 - share) * base[other] + noise
        made[start : start + len(mine)] = points / np.linalg.norm(points, axis=1, keepdims=True)
    made.flush()
    np.save(folder / "base.npy", owners)
    np.save(folder / "buckets.npy", random.integers(0, BUCKETS, count))
    order = np.argsort(np.argsort(base @ base[0], kind="stable"), kind="stable")
    np.save(folder / "topics.npy", order[owners] * TOPICS // known)
    np.save(folder / "queries.npy", queries)
    (folder / "texts.json").write_text(json.dumps(list(texts[:known])), encoding="utf-8")
    (folder / "queries.json").write_text(json.dumps(list(texts[known:])), encoding="utf-8")
    (folder / "vectors.part.npy").rename(folder / "vectors.npy")


def _neighbours(base: NDArray[np.float32]) -> NDArray[np.int64]:
    """Return the nearest neighbours of every vector, without itself."""
    found = []
    count = min(NEIGHBOURS, len(base) - 1)
    for start in range(0, len(base), 2_000):
        near = base[start : start + 2_000] @ base.T
        near[np.arange(len(near)), np.arange(start, start + len(near))] = -np.inf
        found.append(np.argpartition(near, -count, axis=1)[:, -count:])
    return np.concatenate(found)
