"""Receipts through the command line: from nothing, and again with nothing changed; then searches of what came of it."""

from __future__ import annotations

import asyncio
import json
import statistics
import subprocess
import sys
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import flowbed
from benchmarks.retrieval import query_vectors
from flowbed.index.datasets import Datasets
from flowbed.index.live import live_collection
from flowbed.index.search import search
from flowbed.settings import read_settings
from flowbed.storage import open_store

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from numpy.typing import NDArray

ROUNDS = 3
WARM = 20  # searches that open files and fill caches, and are not counted


@dataclass(frozen=True, kw_only=True)
class Receipts:
    """What indexing all receipts took: the report of the first run, and medians of wall-clock seconds."""

    report: dict[str, Any]
    cold: float
    again: float
    embedded_again: int


@dataclass(frozen=True, kw_only=True)
class Latency:
    """Milliseconds of one kind of search; the query's own embedding is left out."""

    what: str
    rows: int
    p50: float
    p95: float


def measure(data: Path, folder: Path) -> Receipts:
    """Index all receipts in new projects below `folder`; the last stays, as `receipts`."""
    cold, again = [], []
    for turn in range(ROUNDS):
        project = folder / ("receipts" if turn == ROUNDS - 1 else f"receipts-{turn}")
        project.mkdir()
        command(project, "init")
        command(project, "add", "receipts", "receipts", str(data / "receipts.jsonl"))
        seconds, report = command(project, "run")
        cold.append(seconds)
        seconds, second = command(project, "run")
        again.append(seconds)
    return Receipts(
        report=report,
        cold=statistics.median(cold),
        again=statistics.median(again),
        embedded_again=second["embedded"],
    )


def command(project: Path, *arguments: str) -> tuple[float, dict[str, Any]]:
    """Run one command of Flowbed in a process of its own; return its seconds and the last line it printed."""
    began = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-m", "flowbed", *arguments, "--json"],
        cwd=project,
        check=True,
        capture_output=True,
        text=True,
    )
    report: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return time.perf_counter() - began, report


def help_seconds() -> float:
    """Time `flowbed --help`, the median of 15."""
    taken = []
    for _ in range(15):
        began = time.perf_counter()
        subprocess.run([sys.executable, "-m", "flowbed", "--help"], check=True, capture_output=True)
        taken.append(time.perf_counter() - began)
    return statistics.median(taken)


async def latency(project: Path, queries: Sequence[str]) -> list[Latency]:
    """Time searches of lines and words: of all and of one merchant, by a scan and through a vector index."""
    vectors = await query_vectors(project, queries)
    merchant = {"merchant_name": "RESTORAN WAN SHENG"}
    async with await flowbed.aopen(project) as bed:
        await bed.compact("words", vector_index="always")
    return [
        *await _timed(
            project, "lines", {"scan": {"exact": True}, "scan, one merchant": {"where": merchant}}, vectors
        ),
        *await _timed(project, "words", {"scan": {"exact": True}, "vector index": {"exact": False}}, vectors),
    ]


async def _timed(
    project: Path, collection: str, kinds: dict[str, dict[str, Any]], vectors: NDArray[Any]
) -> list[Latency]:
    """Time each kind of search in turn, query by query."""
    store = open_store(read_settings(project).store, folder=project)
    datasets = Datasets(store)
    live = await live_collection(store, collection)
    dataset = await datasets.open(live) if live is not None else None
    if live is None or dataset is None:
        message = f"collection {collection} was never committed"
        raise LookupError(message)
    taken: dict[str, list[float]] = {what: [] for what in kinds}
    for turn, vector in enumerate((*vectors[:WARM], *vectors)):
        for what, how in kinds.items():
            began = time.perf_counter()
            await search(vector, [live], datasets=datasets, **how)
            if turn >= WARM:
                taken[what].append((time.perf_counter() - began) * 1e3)
    rows = await asyncio.to_thread(dataset.count_rows)
    return [
        Latency(
            what=f"{collection}, {what}",
            rows=rows,
            p50=statistics.median(each),
            p95=statistics.quantiles(each, n=20)[18],
        )
        for what, each in taken.items()
    ]
