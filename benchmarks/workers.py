"""Workers over one Postgres: throughput of 1, 2 and 4 while a provider is the limit, recovery, and what tasks cost."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import statistics
import subprocess
import sys
import time
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, cast

import psutil
from tests.support.counting import CountingProcess
from tests.support.servers.postgres import PostgresServer

from benchmarks.results import Figure, table
from flowbed.bed import aopen
from flowbed.records import Status
from flowbed.records.tasks import Task
from flowbed.wiring.process import now
from flowbed.workers import ENDED, Limits
from flowbed.workers.engines.durable.opening import open_durable

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from benchmarks.results import Options
    from flowbed.ledger.workers import HoldsWorkers
    from flowbed.workers import Engine

WORKERS = (1, 2, 4)
# A request takes a second at the provider, whatever its size: the processors of one machine are not the limit.
DELAY, TEXTS = 1.0, 50
SOURCES, EACH = 48, 200  # batch files, and the texts of each: 4 requests
PATIENCE = 900.0  # s
TASKS, AT_ONCE = 400, 16
ROUNDS = 6  # of tasks, each followed by a pruning of the engine's tables, as workers do once an hour
SETTINGS = f"""\
model = "seeded:32"
concurrency = 1
[workers]
poll_seconds = 0.1
sweep_seconds = 2
[workers.queues.embed]
worker = 2
[model_options]
items = "{TEXTS}"
"""
TARGET = 0.9  # of linear, with 4 workers


def measure(options: Options) -> dict[str, Any]:
    """Measure all of it."""
    sources = options.scaled(SOURCES, fewest=8)
    with PostgresServer(durable=True) as postgres:
        found = {
            str(workers): _throughput(options.work / f"w{workers}", workers, sources, postgres)
            for workers in WORKERS
        }
        return {
            "workers": found,
            "recovered": _recovery(
                options.work / "recovery", options.scaled(SOURCES // 4, fewest=8), postgres
            ),
            "tasks": asyncio.run(_tasks(postgres, options.scaled(TASKS, fewest=50))),
            "sources": sources,
        }


def figures(found: dict[str, Any]) -> list[Figure]:
    """Return the figures with a target."""
    linear = _linear(found, WORKERS[-1])
    return [
        Figure(
            what=f"Throughput of {WORKERS[-1]} workers, as a share of {WORKERS[-1]} times that of one",
            value=linear,
            target=TARGET,
            form="{:.2f}",
        )
    ]


def section(found: dict[str, Any]) -> str:
    """Write the section of the page."""
    rows = [
        [
            name,
            f"{each['seconds']:.1f} s",
            f"{each['rate']:.0f}/s",
            f"{_linear(found, int(name)):.2f}",
            f"{each['cpu']:.1f} s",
        ]
        for name, each in found["workers"].items()
    ]
    tasks, number = found["tasks"], found["tasks"]["tasks"]
    what = (
        f"{found['sources'] * EACH:,} texts in {found['sources']} batch files, embedded by workers over one Postgres."
        f" The provider takes {DELAY:g} s for each request of {TEXTS} texts, and a worker has two requests in flight."
    )
    sizes = tasks["sizes"]
    kilobytes = (sizes[1] - sizes[0]) / number / 1_000
    costs = (
        f"A task costs {1_000 * tasks['seconds'] / number:.1f} ms of time and {1_000 * tasks['cpu'] / number:.1f} ms of"
        f" CPU in the engine, {AT_ONCE} at once, and {kilobytes:.1f} KB in its tables until it is deleted; enqueueing"
        f" takes {tasks['enqueue_ms']:.1f} ms. After a `kill -9` of a worker, another one on the same machine had taken"
        f" its work over within {found['recovered']:.1f} s; on another machine, `dead_seconds` pass first."
    )
    shown = ", ".join(f"{size / 1e6:.1f}" for size in sizes[1:])
    growth = (
        f"The tables of the engine are pruned: a worker deletes entries a day after they ended, which takes"
        f" {tasks['prune_ms']:.1f} ms each. With a pruning after every {number:,} tasks, tables and indexes had"
        f" {shown} MB before each, and {tasks['left'] / 1e6:.1f} MB after the last; empty, they have"
        f" {sizes[0] / 1e6:.1f} MB."
    )
    head = ["workers", "time", "texts", "of linear", "CPU of a worker"]
    return "\n".join(["## Workers\n", what, "", table(head, rows), "", costs, "", growth, ""])


def _linear(found: dict[str, Any], workers: int) -> float:
    return float(found["workers"][str(workers)]["rate"] / (workers * found["workers"]["1"]["rate"]))


@contextmanager
def _project(folder: Path, sources: int, postgres: PostgresServer) -> Iterator[tuple[Fleet, CountingProcess]]:
    """Make a project whose sources are fetched, with a provider of its own."""
    folder.mkdir()
    before = os.environ.get("FLOWBED_LEDGER")
    os.environ["FLOWBED_LEDGER"] = postgres.database()
    try:
        with CountingProcess(delay=DELAY) as provider:
            tables = [
                f'[sources.s{number}]\nkind = "jsonl"\nlocation = "s{number}.jsonl"\ncollection = "all"\n'
                for number in range(sources)
            ]
            server = f'server = "{provider.address}"\n'
            (folder / "flowbed.toml").write_text("".join([SETTINGS, server, *tables]))
            for number in range(sources):
                lines = [json.dumps({"id": f"k{n}", "text": f"text {number} {n}"}) for n in range(EACH)]
                (folder / f"s{number}.jsonl").write_text("\n".join(lines))
            asyncio.run(_fetched(folder, sources))
            fleet = Fleet(folder)
            try:
                yield fleet, provider
            finally:
                fleet.end()
    finally:
        del os.environ["FLOWBED_LEDGER"]
        if before is not None:
            os.environ["FLOWBED_LEDGER"] = before


@dataclass
class Fleet:
    """Worker processes of a project."""

    folder: Path
    running: list[subprocess.Popen[bytes]] = field(default_factory=list)

    def start(self, workers: int) -> None:
        """Start some."""
        command = [sys.executable, "-m", "flowbed", "worker", "--queues", "embed", "--queues", "commit"]
        self.running += [
            subprocess.Popen(command, cwd=self.folder, stderr=subprocess.DEVNULL) for _ in range(workers)
        ]

    def end(self) -> None:
        """Drain those that are left."""
        for each in self.running:
            each.send_signal(signal.SIGTERM)
        for each in self.running:
            each.wait(60)


def _throughput(folder: Path, workers: int, sources: int, postgres: PostgresServer) -> dict[str, Any]:
    """Embed all texts with so many workers; the clock starts with the first request."""
    with _project(folder, sources, postgres) as (fleet, provider):
        fleet.start(workers)
        first, last = asyncio.run(_embedded(folder, sources * EACH, provider))
        cpu = statistics.mean(_cpu(each.pid) for each in fleet.running)
    return {"seconds": last - first, "rate": sources * EACH / (last - first), "cpu": cpu}


def _recovery(folder: Path, sources: int, postgres: PostgresServer) -> float:
    """Kill one of two workers; return the seconds until the other had taken its work over."""
    with _project(folder, sources, postgres) as (fleet, provider):
        fleet.start(2)
        killed = fleet.running[0]
        return asyncio.run(_taken_over(folder, killed, fleet, provider))


async def _taken_over(
    folder: Path, killed: subprocess.Popen[bytes], fleet: Fleet, provider: CountingProcess
) -> float:
    async with asyncio.timeout(PATIENCE), await aopen(folder) as bed:
        rows = cast("HoldsWorkers", bed.ledger).workers

        async def at_work() -> bool:
            return any(row.pid == killed.pid and row.running != "[]" for row in await rows.all())

        while not (provider.report().texts and await at_work()):  # noqa: ASYNC110 - nothing tells
            await asyncio.sleep(0.1)
        began = time.monotonic()
        killed.kill()
        fleet.running.remove(killed)
        await asyncio.to_thread(killed.wait)
        while any(row.pid == killed.pid for row in await rows.all()):  # noqa: ASYNC110 - nothing tells
            await asyncio.sleep(0.05)
        return time.monotonic() - began


async def _fetched(folder: Path, sources: int) -> None:
    async with await aopen(folder) as bed:
        for number in range(sources):
            await bed.fetch(f"s{number}")


async def _embedded(folder: Path, texts: int, provider: CountingProcess) -> tuple[float, float]:
    """Wait until every text is in the index; return when the first request came, and when all was done."""
    first = 0.0
    async with asyncio.timeout(PATIENCE), await aopen(folder) as bed:
        while await bed.ledger.chunks.counts() != {("all", Status.SUCCESS): texts}:
            if not first and provider.report().texts:
                first = time.monotonic()
            await asyncio.sleep(0.1)
    return first, time.monotonic()


def _cpu(pid: int) -> float:
    times = psutil.Process(pid).cpu_times()
    return float(times.user + times.system)


async def _tasks(postgres: PostgresServer, tasks: int) -> dict[str, Any]:
    """Run empty tasks through the engine alone, in rounds, and delete them after each."""
    url = postgres.database()
    ended = 0
    done = asyncio.Event()

    async def carry_out(_: Task) -> None:
        nonlocal ended
        ended += 1
        if ended % tasks == 0:
            done.set()

    queues = {"bench": Limits(worker=AT_ONCE, poll=0.05)}
    engine = await open_durable("bench", queues, carry_out, url=url, name="flowbed-bench", clock=now)
    sizes, enqueueing, pruning = [_size(postgres, url)], 0.0, 0.0
    began, cpu = time.monotonic(), time.process_time()
    seconds = used = 0.0
    for turn in range(ROUNDS):
        given = [Task(workflow="work", key=f"k{turn}-{n}", queue="bench") for n in range(tasks)]
        done.clear()
        at = time.monotonic()
        await engine.enqueue(given)
        enqueueing += time.monotonic() - at
        async with asyncio.timeout(PATIENCE):
            await done.wait()
        seconds, used = seconds or time.monotonic() - began, used or time.process_time() - cpu
        await _settled(engine, tasks)
        sizes.append(_size(postgres, url))
        at = time.monotonic()
        ended_ones = await engine.list(ENDED, ended_before=now() + 1_000_000, limit=2 * tasks)
        await engine.delete([each.id for each in ended_ones])
        pruning += time.monotonic() - at
        # As Postgres does by itself once a fifth of a table was deleted.
        postgres.query(url, "VACUUM")
    left = _size(postgres, url)
    await engine.drain(5)
    return {
        "tasks": tasks,
        "seconds": seconds,
        "cpu": used,
        "enqueue_ms": 1_000 * enqueueing / tasks / ROUNDS,
        "prune_ms": 1_000 * pruning / tasks / ROUNDS,
        "sizes": sizes,
        "left": left,
    }


async def _settled(engine: Engine, tasks: int) -> None:
    """Wait until the engine has recorded the end of all tasks."""
    async with asyncio.timeout(PATIENCE):
        while len(await engine.list(ENDED, limit=2 * tasks)) < tasks:  # noqa: ASYNC110 - nothing tells
            await asyncio.sleep(0.1)


def _size(postgres: PostgresServer, url: str) -> int:
    """Return the bytes of the engine's tables and their indexes."""
    size = postgres.query(
        url,
        "SELECT sum(pg_total_relation_size(c.oid)) FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace"
        " WHERE c.relkind = 'r' AND n.nspname = 'flowbed_engine'",
    )
    return int(size)
