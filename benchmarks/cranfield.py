"""Search quality on Cranfield, measured as the tests measure it."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Any

from benchmarks import retrieval
from benchmarks.results import Figure, table

if TYPE_CHECKING:
    from benchmarks.results import Options


def measure(options: Options) -> dict[str, Any]:
    """Index the abstracts as a user would, and rank documents for every query."""
    judged = retrieval.read_judged(options.data / "retrieval")
    began = time.monotonic()
    asyncio.run(retrieval.build(options.work / "cranfield", options.data / "retrieval" / "corpus.jsonl"))
    seconds = time.monotonic() - began
    ranked = asyncio.run(retrieval.rank(options.work / "cranfield", judged))
    return {
        "chunks": ranked.chunks,
        "queries": len(judged.queries),
        "seconds": seconds,
        "ndcg": {
            "Flowbed's search": judged.ndcg(ranked.searched),
            "Flowbed's search through a vector index": judged.ndcg(ranked.indexed),
            "exact cosine in numpy over the same vectors": judged.ndcg(ranked.cosine),
        },
    }


def figures(found: dict[str, Any]) -> list[Figure]:
    """Compare the search with exact search."""
    searched, _, exact = found["ndcg"].values()
    return [
        Figure(
            what="nDCG@10 on Cranfield: loss against exact cosine",
            value=exact - searched,
            target=0.005,
            at_most=True,
            form="{:.4f}",
        )
    ]


def section(found: dict[str, Any]) -> str:
    """Write what was measured."""
    return f"""## Retrieval on Cranfield

Titles and texts of 1,400 abstracts became {found["chunks"]:,} chunks in {found["seconds"]:.0f} s. A document's score is
that of its best chunk. {found["queries"]} queries with graded judgements; the grade is the gain.

{table(["ranking", "nDCG@10"], [[what, f"{score:.4f}"] for what, score in found["ndcg"].items()])}
"""
