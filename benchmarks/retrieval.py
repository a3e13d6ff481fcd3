"""Search quality on Cranfield: search results against exact cosine similarity over the vectors in the index."""

from __future__ import annotations

import csv
import json
import math
from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

import flowbed
from flowbed.embedding import open_embedder
from flowbed.index.active_space import live_collection
from flowbed.index.datasets import Datasets
from flowbed.index.search import search
from flowbed.settings import read_settings
from flowbed.storage import open_store

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from flowbed.index.active_space import Live

DEPTH = 10
COLLECTION = "corpus"


@dataclass(frozen=True, kw_only=True)
class Judged:
    """Queries by id, and for each the grade of every judged document."""

    queries: Mapping[str, str]
    grades: Mapping[str, Mapping[str, int]]

    def ndcg(self, found: Mapping[str, Sequence[str]]) -> float:
        """Score rankings by query: the mean nDCG@10, with the grade itself as gain."""
        return float(np.mean([ndcg(found[query], self.grades[query]) for query in self.queries]))


@dataclass(frozen=True, kw_only=True)
class Rankings:
    """The ten best documents for each query, found in three ways, and the chunks that were searched."""

    searched: Mapping[str, Sequence[str]]
    indexed: Mapping[str, Sequence[str]]
    cosine: Mapping[str, Sequence[str]]
    chunks: int


def read_judged(folder: Path) -> Judged:
    """Read `queries.jsonl` and `qrels.tsv`; queries without a relevant document cannot be scored."""
    grades: dict[str, dict[str, int]] = defaultdict(dict)
    with (folder / "qrels.tsv").open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file, delimiter="\t"):
            grades[row["query-id"]][row["corpus-id"]] = int(row["score"])
    lines = (folder / "queries.jsonl").read_text("utf-8").splitlines()
    texts = {record["_id"]: record["text"] for record in map(json.loads, lines)}
    return Judged(
        queries={name: text for name, text in texts.items() if any(grades[name].values())},
        grades=dict(grades),
    )


def ndcg(ranking: Sequence[str], grades: Mapping[str, int]) -> float:
    """Score one ranking; an unjudged document counts as irrelevant."""
    discounts = [1 / math.log2(place + 2) for place in range(DEPTH)]
    gained = sum(
        grades.get(name, 0) * discount for name, discount in zip(ranking[:DEPTH], discounts, strict=False)
    )
    best = sorted(grades.values(), reverse=True)
    return gained / sum(grade * discount for grade, discount in zip(best, discounts, strict=False))


async def build(project: Path, corpus: Path) -> int:
    """Index a corpus, titles and texts, as a user would; return its number of chunks."""
    async with await flowbed.aopen(project) as bed:
        await bed.add(COLLECTION, kind="jsonl", location=corpus)
        return (await bed.run()).chunks


async def rank(project: Path, judged: Judged) -> Rankings:
    """Rank documents for every query, before and after a vector index is built."""
    names = list(judged.queries)
    async with await flowbed.aopen(project) as bed:
        searched = {}
        for name in names:
            hits = await bed.search(judged.queries[name], collection=COLLECTION, limit=DEPTH, unit="document")
            searched[name] = [str(hit.metadata["document"]) for hit in hits]
        vectors = await query_vectors(project, list(judged.queries.values()))
        await bed.compact(COLLECTION, vector_index="always")
        indexed = await through_index(project, dict(zip(names, vectors, strict=True)))
    rows, documents = await stored(project)
    cosine = dict(zip(names, nearest(rows, documents, vectors), strict=True))
    return Rankings(searched=searched, indexed=indexed, cosine=cosine, chunks=len(rows))


async def query_vectors(project: Path, texts: Sequence[str]) -> NDArray[np.float32]:
    """Embed queries with the project's model."""
    settings = read_settings(project)
    embedder = open_embedder(
        settings.model, cache=project / ".flowbed" / "models", options=settings.model_options
    )
    return (await embedder.embed(texts, purpose="query")).vectors


async def through_index(project: Path, queries: Mapping[str, NDArray[np.float32]]) -> dict[str, list[str]]:
    """Rank the best `DEPTH` documents through the vector index, even with few rows."""
    datasets, live = await _opened(project)
    found = {}
    for name, vector in queries.items():
        answer = await search(vector, [live], datasets=datasets, limit=DEPTH, unit="document", exact=False)
        found[name] = [str(hit.metadata["document"]) for hit in answer.hits]
    return found


async def nearest_rows(
    project: Path, queries: NDArray[np.float32], *, limit: int, exact: bool
) -> list[list[str]]:
    """Return the ids of the rows nearest to each query, through the vector index or by comparing all."""
    datasets, live = await _opened(project)
    found = []
    for vector in queries:
        answer = await search(vector, [live], datasets=datasets, limit=limit, exact=exact)
        found.append([hit.id for hit in answer.hits])
    return found


async def stored(project: Path) -> tuple[NDArray[np.float32], list[str]]:
    """Return every vector in the index, and the document of each."""
    datasets, live = await _opened(project)
    dataset = await datasets.open(live)
    if dataset is None:
        raise LookupError(f"collection {COLLECTION} was never committed")
    rows = dataset.to_table(columns=["vector", "metadata"], filter="deleted = false")
    vectors = rows["vector"].combine_chunks().flatten().to_numpy(zero_copy_only=False)
    documents = [json.loads(text)["document"] for text in rows["metadata"].to_pylist()]
    return np.asarray(vectors, np.float32).reshape(rows.num_rows, -1), documents


def nearest(
    rows: NDArray[np.float32], documents: Sequence[str], queries: NDArray[np.float32]
) -> list[list[str]]:
    """Rank documents by the cosine of their best row, computed in full."""
    names = sorted(set(documents))
    place = {name: at for at, name in enumerate(names)}
    owners = np.array([place[name] for name in documents])
    units = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    found = []
    for query in queries / np.linalg.norm(queries, axis=1, keepdims=True):
        best = np.full(len(names), -np.inf, np.float32)
        np.maximum.at(best, owners, units @ query)
        found.append([names[at] for at in np.argsort(-best, kind="stable")[:DEPTH]])
    return found


async def _opened(project: Path) -> tuple[Datasets, Live]:
    store = open_store(read_settings(project).store, folder=project)
    live = await live_collection(store, COLLECTION)
    if live is None:
        raise LookupError(f"collection {COLLECTION} was never committed")
    return Datasets(store), live
