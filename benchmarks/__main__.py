"""Measure everything, and write docs/benchmarks.md. Real data is read from FLOWBED_TEST_DATA."""

from __future__ import annotations

import asyncio
import os
import sys
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path

from benchmarks import embedder, receipts, retrieval
from benchmarks.machine import described, load
from flowbed.index.compaction import INDEX_ROWS
from flowbed.index.search import EXACT_ROWS

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "benchmarks.md"


def main() -> int:
    """Measure, print the page, and write it."""
    named = os.environ.get("FLOWBED_TEST_DATA")
    data = Path(named) if named else ROOT.parent / "shared" / "data"
    if not data.is_dir():
        print("no data: set FLOWBED_TEST_DATA to the folder of test data", file=sys.stderr)
        return 2
    before, began = load(), time.monotonic()
    with tempfile.TemporaryDirectory(prefix="flowbed-bench-") as folder:
        parts = [
            _receipts(data, Path(folder)),
            _latency(data, Path(folder)),
            _embedder(data, Path(folder)),
            _retrieval(data, Path(folder)),
            _start(),
        ]
    page = "\n".join([_head(before, load(), time.monotonic() - began), *parts])
    PAGE.write_text(page, encoding="utf-8")
    print(page)
    return 0


def _head(before: float, after: float, seconds: float) -> str:
    return f"""# Benchmarks

Written by `make bench` on {datetime.now(UTC):%Y-%m-%d}; it took {seconds / 60:.0f} minutes. Figures are medians, and
what is compared was run in turn in the same process.

The machine:

{described()}
- load average {before:.1f} before and {after:.1f} after; more than 2 says that other processes shared the cores
"""


def _receipts(data: Path, folder: Path) -> str:
    done = receipts.measure(data, folder)
    report = done.report
    return f"""## Receipts from the command line

`flowbed run` over `receipts.jsonl`, in a process of its own, starting with no cache and no index
({receipts.ROUNDS} times).

| | |
| --- | --- |
| receipts | {report["fetched"]:,} |
| chunks in `lines` and `words` | {report["chunks"]:,} |
| distinct texts embedded | {report["embedded"]:,} |
| tokens | {report["tokens"]:,} |
| seconds, first run | {done.cold:.1f} |
| seconds, second run | {done.again:.2f} |
| texts embedded by the second run | {done.embedded_again} |
"""


def _latency(data: Path, folder: Path) -> str:
    queries = list(retrieval.read_judged(data / "retrieval").queries.values())
    found = asyncio.run(receipts.latency(folder / "receipts", queries))
    rows = "\n".join(f"| {each.what} | {each.rows:,} | {each.p50:.1f} | {each.p95:.1f} |" for each in found)
    return f"""## Search

Milliseconds for the ten nearest chunks with their text and metadata, {len(queries)} query vectors one after the other.
Below {INDEX_ROWS:,} rows Flowbed builds no index of its own accord, and below {EXACT_ROWS:,} it uses none.

| search | rows | p50 | p95 |
| --- | ---: | ---: | ---: |
{rows}
"""


def _embedder(data: Path, folder: Path) -> str:
    cache = folder / "models"
    found = embedder.measure(data, cache)
    rows = "\n".join(
        f"| {each.texts} | {each.count:,} | {each.tokens / each.count:.0f} | {each.flowbed:,.0f} | {each.alone:,.0f} "
        f"| {each.flowbed / each.alone:.2f} |"
        for each in found
    )
    return f"""## The local embedder

Texts per second of the embedder as a run calls it (tokenising, sorting, padding, pooling, threads) and of ONNX Runtime
alone, which is handed the same batches as finished arrays. {embedder.ROUNDS} rounds in turn.

| texts | number | tokens each | Flowbed | ONNX Runtime alone | share |
| --- | ---: | ---: | ---: | ---: | ---: |
{rows}
"""


def _retrieval(data: Path, folder: Path) -> str:
    judged = retrieval.read_judged(data / "retrieval")
    project = folder / "cranfield"
    began = time.monotonic()
    asyncio.run(retrieval.build(project, data / "retrieval" / "corpus.jsonl"))
    seconds = time.monotonic() - began
    found = asyncio.run(retrieval.rank(project, judged))
    return f"""## Retrieval on Cranfield

Titles and texts of 1,400 abstracts became {found.chunks:,} chunks in {seconds:.0f} s. A document's score is its best
chunk's. {len(judged.queries)} queries, graded judgements, the grade as gain.

| ranking | nDCG@10 |
| --- | ---: |
| Flowbed's search | {judged.ndcg(found.searched):.4f} |
| Flowbed's search through a vector index | {judged.ndcg(found.indexed):.4f} |
| exact cosine in numpy over the same vectors | {judged.ndcg(found.cosine):.4f} |

The tests hold the first two within 0.005 of the third.
"""


def _start() -> str:
    return f"""## Starting

`flowbed --help`: {receipts.help_seconds():.2f} s.
"""


if __name__ == "__main__":
    sys.exit(main())
