"""Flowbed's side with texts from files: receipts from file to answers, and a million records."""

from __future__ import annotations

import asyncio
import itertools
import json
import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import flowbed
from benchmarks.sides.serve import serve
from flowbed.index import compaction
from flowbed.telemetry import PROGRESS, RUN_COMMITTED, STAGE, listen
from flowbed.wiring.process import set_up

if TYPE_CHECKING:
    from collections.abc import Callable


WARM = "warm.jsonl"


def receipts(folder: str, file: str) -> dict[str, Any]:
    """Take receipts from the file to answers, in a new project whose model is loaded and whose cache is empty."""
    Path(folder).mkdir(parents=True)
    Path(folder, WARM).write_text('{"id": "1", "text": "the model is loaded now"}\n', encoding="utf-8")
    last = json.loads(Path(file).read_text("utf-8").splitlines()[-1])["lines"][-1]["text"]
    return asyncio.run(_receipts(Path(folder), Path(file), last))


async def _receipts(folder: Path, file: Path, last: str) -> dict[str, Any]:
    async with await flowbed.aopen(folder) as bed:
        await bed.add("warm", kind="jsonl", location=WARM)
        await bed.run()
        began = time.perf_counter()
        await bed.add("receipts", kind="receipts", location=file)
        report = await bed.run("receipts")
        ran = time.perf_counter()
        hits = await bed.search(last, collection="lines", limit=1)
        done = time.perf_counter()
        if hits[0].score < 0.999:
            raise LookupError(f"{last!r} is not found: {hits}")
    if report.failed:
        raise RuntimeError(report.failures)
    return {
        "seconds": done - began,
        "rows": report.chunks,
        "embedded": report.embedded,
        "tokens": report.tokens,
        "fetched": report.fetched,
        "parts": {"run": ran - began, "first query": done - ran},
    }


def records(folder: str, file: str, model: str) -> dict[str, Any]:
    """Run over a file of records, and return when how many were done; an existing project is run again."""
    Path(folder).mkdir(parents=True, exist_ok=True)
    Path(folder, "flowbed.toml").write_text(f'model = "{model}"\n', encoding="utf-8")
    return asyncio.run(_records(Path(folder), Path(file)))


async def _records(folder: Path, file: Path) -> dict[str, Any]:
    done: dict[str, list[tuple[float, int]]] = {}
    compactions: list[tuple[float, float]] = []
    _time_compactions(compactions)

    embedded = 0

    def note(point: str, facts: dict[str, Any]) -> None:
        nonlocal embedded
        now = time.perf_counter()
        if point == STAGE:
            done.setdefault(facts["stage"], [(now, 0)])
        elif point == RUN_COMMITTED and "embed" in done:
            done["embed"].append((now, embedded))  # what was embedded counts once it is committed
        elif point == PROGRESS and facts["stage"] == "embed":
            embedded += facts["done"]
        elif point == PROGRESS and facts["done"]:
            stage = done[facts["stage"]]
            stage.append((now, stage[-1][1] + facts["done"]))

    async with await flowbed.aopen(folder) as bed:
        await bed.add("records", kind="jsonl", location=file)
        ended = listen(note)
        began = time.perf_counter()
        report = await bed.run()
        seconds = time.perf_counter() - began
        ended()
    apart = sum(stop - start for start, stop in compactions)
    fields = asdict(report)
    counts = ("fetched", "chunks", "embedded", "reused", "deleted", "failed")
    return {
        "seconds": seconds,
        "compaction": apart,
        "report": {name: fields[name] for name in counts},
        "tenths": {stage: tenths(seen, compactions) for stage, seen in done.items()},
    }


def tenths(seen: list[tuple[float, int]], compactions: list[tuple[float, float]]) -> list[float]:
    """Return the rate of each tenth of the work, in rows a second, without the seconds of compactions."""
    total = seen[-1][1]
    if not total:
        return []
    edges = [_when(seen, total * tenth / 10) for tenth in range(11)]
    rates = []
    for start, stop in itertools.pairwise(edges):
        apart = sum(max(0.0, min(stop, last) - max(start, first)) for first, last in compactions)
        rates.append(total / 10 / max(stop - start - apart, 1e-9))
    return rates


def _when(seen: list[tuple[float, int]], count: float) -> float:
    """Return when `count` rows were done, interpolated between two reports."""
    for (at, before), (when, done) in itertools.pairwise(seen):
        if before <= count <= done and done > before:
            return at + (when - at) * (count - before) / (done - before)
    return seen[-1][0]


def _time_compactions(taken: list[tuple[float, float]]) -> None:
    """Record when compactions run, wherever the package calls them."""
    compact: Callable[..., Any] = compaction.compact

    async def timed(*positional: Any, **named: Any) -> Any:
        began = time.perf_counter()
        try:
            return await compact(*positional, **named)
        finally:
            taken.append((began, time.perf_counter()))

    for name, module in list(sys.modules.items()):
        if name.startswith("flowbed") and getattr(module, "compact", None) is compact:
            module.compact = timed  # type: ignore[attr-defined]


if __name__ == "__main__":
    set_up()  # as the command does it
    serve({"receipts": receipts, "records": records})
