"""Search finds what exact cosine similarity over the same vectors finds, on real queries with real judgements."""

from __future__ import annotations

import asyncio
import json
from itertools import islice
from typing import TYPE_CHECKING

import pytest
from benchmarks.retrieval import (
    Judged,
    Rankings,
    build,
    nearest_rows,
    query_vectors,
    rank,
    read_judged,
)

from flowbed.index import partitions

if TYPE_CHECKING:
    from pathlib import Path

# Of 225 queries, with their judged documents. `make bench` measures all.
QUERIES = 22

# Of 166 rows in 13 partitions, the nearest partition has enough for this many rows; for more, a search probes others
# too. About 13 of the queries then miss a row, and in ten builds of the index no fewer than 8.
FEW = 5

# Tolerance of nDCG@10.
EQUAL = 0.005


@pytest.fixture(scope="module")
def judged(data: Path) -> Judged:
    whole = read_judged(data / "retrieval")
    return Judged(queries=dict(islice(whole.queries.items(), QUERIES)), grades=whole.grades)


@pytest.fixture(scope="module")
def project(data: Path, judged: Judged, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Index the documents that were judged for the queries."""
    folder = tmp_path_factory.mktemp("cranfield")
    wanted = {name for query in judged.queries for name in judged.grades[query]}
    corpus = folder / "corpus.jsonl"
    with (data / "retrieval" / "corpus.jsonl").open(encoding="utf-8") as file:
        corpus.write_text(
            "".join(line for line in file if json.loads(line)["_id"] in wanted), encoding="utf-8"
        )
    asyncio.run(build(folder, corpus))
    return folder


@pytest.fixture(scope="module")
def rankings(project: Path, judged: Judged) -> Rankings:
    return asyncio.run(rank(project, judged))


def test_search_ranks_as_well_as_exact_cosine(judged: Judged, rankings: Rankings) -> None:
    """The nDCG@10 of search equals that of exact cosine over the vectors in the index."""
    expected = judged.ndcg(rankings.cosine)
    assert expected > 0.3, "the model itself finds little: the vectors are not what they should be"
    assert judged.ndcg(rankings.searched) == pytest.approx(expected, abs=EQUAL)


def test_search_through_a_vector_index_ranks_as_well(judged: Judged, rankings: Rankings) -> None:
    """The nDCG@10 of search through a vector index equals that of exact cosine."""
    assert judged.ndcg(rankings.indexed) == pytest.approx(judged.ndcg(rankings.cosine), abs=EQUAL)


def test_search_through_a_vector_index_really_uses_it(
    project: Path, judged: Judged, rankings: Rankings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With one partition probed instead of many, the same search misses rows."""
    assert rankings.indexed  # which built the index
    monkeypatch.setattr(partitions, "PROBED", 0.0)
    monkeypatch.setattr(partitions, "FEWEST", 1)
    monkeypatch.setattr(partitions, "ROWS_A_HIT", 0)

    async def found(*, exact: bool) -> list[list[str]]:
        vectors = await query_vectors(project, list(judged.queries.values()))
        return await nearest_rows(project, vectors, limit=FEW, exact=exact)

    assert asyncio.run(found(exact=False)) != asyncio.run(found(exact=True))
