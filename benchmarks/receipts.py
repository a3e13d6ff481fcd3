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
    """Time searches of lines and words: exact, filtered, and through a vector index."""
    vectors = await query_vectors(project, queries)
    found = []
    merchant = {"merchant_name": "RESTORAN WAN SHENG"}
    found.append(await _timed(project, "lines", "lines, exact", vectors))
    found.append(await _timed(project, "lines", "lines, one merchant", vectors, where=merchant))
    found.append(await _timed(project, "words", "words, exact", vectors))
    async with await flowbed.aopen(project) as bed:
        await bed.compact("words", vector_index="always")
    found.append(await _timed(project, "words", "words, vector index", vectors, exact=False))
    return found


async def _timed(
    project: Path,
    collection: str,
    what: str,
    vectors: NDArray[Any],
    *,
    where: dict[str, Any] | None = None,
    exact: bool | None = True,
) -> Latency:
    store = open_store(read_settings(project).store, folder=project)
    datasets = Datasets(store)
    live = await live_collection(store, collection)
    if live is None:
        message = f"collection {collection} was never committed"
        raise LookupError(message)
    dataset = await datasets.open(live)
    taken = []
    for turn, vector in enumerate((*vectors[:20], *vectors)):
        began = time.perf_counter()
        await search(vector, [live], datasets=datasets, where=where, exact=exact)
        if turn >= 20:  # the first ones open files
            taken.append((time.perf_counter() - began) * 1e3)
    cuts = statistics.quantiles(taken, n=20)
    rows = await asyncio.to_thread(dataset.count_rows) if dataset is not None else 0
    return Latency(what=what, rows=rows, p50=statistics.median(taken), p95=cuts[18])
