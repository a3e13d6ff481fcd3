"""The commands that carry out the work of a project, on any number of machines, and that look after those that do."""

from __future__ import annotations

import asyncio
import signal
import sys
import time
from contextlib import AsyncExitStack
from itertools import chain, repeat
from typing import TYPE_CHECKING, Annotated, Any

import orjson
import typer

from flowbed.cli.options import Common
from flowbed.cli.printing.output import note, say, say_json
from flowbed.cli.project import DONE, INTERRUPTED, project_folder
from flowbed.errors import Misconfigured, NotFound, Transient
from flowbed.records.values import count
from flowbed.workers.outage import Outage

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from flowbed.bed import Flowbed
    from flowbed.ledger.workers import WorkerRow, Workers
    from flowbed.services.stages import Hints, Stage
    from flowbed.workers.depths import Depth

# Seconds between attempts to start while the ledger cannot be reached.
WAITS = (1.0, 2.0, 5.0, 10.0)
STOPPING = (signal.SIGINT, signal.SIGTERM)
Queue = Annotated[str, typer.Argument(metavar="QUEUE", help="A queue of `flowbed workers list`.")]


def worker(
    common: Common,
    queues: Annotated[
        list[str] | None, typer.Option(metavar="QUEUE", help="Take only tasks of this queue; repeatable.")
    ] = None,
    concurrency: Annotated[
        int | None, typer.Option(min=1, help="Tasks of each queue at once; default: the settings.")
    ] = None,
    processes: Annotated[int, typer.Option(min=1, max=256, help="Number of worker processes.")] = 1,
) -> int:
    """Carry out what waits in the project, with other workers, until stopped."""
    signals: list[int] = []

    async def worked(bed: Flowbed) -> int:
        stop = asyncio.Event()

        loop = asyncio.get_running_loop()

        def end(number: int) -> None:
            signals.append(number)
            stop.set()
            for each in STOPPING:  # the second one ends the process: what it runs is resumed by others
                loop.remove_signal_handler(each)
                signal.signal(each, signal.SIG_DFL)

        for number in STOPPING:
            loop.add_signal_handler(number, end, number)
        if processes > 1:
            return await _supervise(common, bed, queues or [], concurrency, processes, stop)
        await _work(common, bed, queues or [], concurrency, stop)
        return DONE

    status = _waited_for(lambda: common.with_bed(worked), ending=signals)
    return INTERRUPTED if signal.SIGINT in signals else status


def _waited_for(work: Callable[[], int], *, ending: Sequence[int]) -> int:
    """Work, again and again while the ledger cannot be reached at the start; later the worker itself waits."""
    outage = Outage("the ledger", monotonic=time.monotonic)
    waits = chain(WAITS, repeat(WAITS[-1]))
    while True:
        try:
            return work()
        except Transient as error:
            if ending:
                raise
            outage.failed(error)
            time.sleep(next(waits))


async def _work(
    common: Common, bed: Flowbed, queues: list[str], concurrency: int | None, stop: asyncio.Event
) -> None:
    from flowbed.services.stages import Hints
    from flowbed.workers.opening import limits_of, open_worker

    chosen = limits_of(bed.settings, queues, concurrency)
    async with AsyncExitStack() as stack:
        hints = Hints()
        stages = await _served(bed, set(chosen), stack, hints)
        opened = open_worker(bed, stages, hints, queues=queues, concurrency=concurrency)
        await stack.enter_async_context(opened)
        if common.as_json:
            say_json({"worker": opened.name, "queues": {name: each.worker for name, each in chosen.items()}})
        else:
            note(f"worker {opened.name} takes tasks of {', '.join(chosen)}; Ctrl-C stops it")
        waits = [asyncio.ensure_future(each.wait()) for each in (stop, opened.told_to_leave)]
        await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        for each in waits:
            each.cancel()


async def _served(bed: Flowbed, queues: set[str], stack: AsyncExitStack, hints: Hints) -> list[Stage]:
    """Open the services whose work is in these queues, and return their stages."""
    from flowbed.services.batches.jobs import QUEUE
    from flowbed.services.jobs.stage import PLACES, index_job_stages
    from flowbed.services.vector_stores.stage import QUEUE as STORES
    from flowbed.services.vector_stores.stage import VectorStoreWork

    if not queues & {QUEUE, STORES, *PLACES}:
        return []
    from flowbed.server.api.batch_lines import HttpLineCodec
    from flowbed.services.batches.stage import BatchJobs, FileRetention
    from flowbed.services.service import open_service

    service = await stack.enter_async_context(open_service(bed, hints=hints))
    batches: list[Stage] = (
        [BatchJobs(service, HttpLineCodec()), FileRetention(service)] if QUEUE in queues else []
    )
    stores: list[Stage] = [VectorStoreWork(service.vector_stores.processing)] if STORES in queues else []
    jobs = index_job_stages(service.index_jobs) if queues & PLACES.keys() else []
    return [*batches, *stores, *jobs]


async def _supervise(
    common: Common,
    bed: Flowbed,
    queues: list[str],
    concurrency: int | None,
    processes: int,
    stop: asyncio.Event,
) -> int:
    from flowbed.ledger.workers import HoldsWorkers
    from flowbed.workers.opening import is_durable, limits_of
    from flowbed.workers.supervisor import Supervisor

    limits_of(bed.settings, queues, concurrency)  # here, once, and not in each process
    if not is_durable(bed.settings):
        raise Misconfigured(
            "several worker processes need a ledger on Postgres: set `ledger` to postgresql://user@host/database, or"
            " leave out --processes"
        )
    command = [sys.executable, "-m", "flowbed", "worker", "--config", str(project_folder(common.config))]
    command += [part for name in queues for part in ("--queues", name)]
    command += ["--concurrency", str(concurrency)] if concurrency else []
    command += [option for option, given in (("--json", common.as_json), ("-v", common.verbose)) if given]
    rows = bed.ledger.workers if isinstance(bed.ledger, HoldsWorkers) else None
    return await Supervisor(command=command, wanted=processes, rows=rows).run(stop)


def list_(common: Common) -> None:
    """List workers, with their last heartbeat and current work, and how much waits in each queue."""

    async def look(
        bed: Flowbed,
    ) -> tuple[list[WorkerRow], Mapping[str, Depth], Mapping[str, int], Mapping[str, int], bool]:
        from flowbed.ledger.workers import PAUSED
        from flowbed.workers.depths import depths, given_up
        from flowbed.workers.opening import is_durable

        rows, ledger = _rows(bed), bed.ledger
        found = await depths(ledger, now=bed.clock())
        paused, left = (await rows.marks(PAUSED))[0], await given_up(ledger)
        return await rows.all(), found, paused, left, is_durable(bed.settings)

    rows, found, paused, left, listed = common.with_bed(look)
    shown = {
        "workers": [_public(row) for row in rows],
        "queues": {
            name: {**vars(each), "oldest_seconds": round(each.oldest_seconds), "paused": name in paused}
            for name, each in found.items()
        },
        "paused": sorted(paused),
        "given_up": dict(left),
    }

    def show(_: object) -> None:
        _show(rows, found, paused, listed=listed)
        for task, deaths in left.items():
            say(
                f"{task} was given up, since {deaths} workers died at it: `flowbed dead-letters retry {task!r}` lets"
                " them try again"
            )

    common.show(shown, show)


def scale(
    common: Common,
    processes: Annotated[int, typer.Argument(min=1, max=256, help="Worker processes of each machine.")],
    host: Annotated[str, typer.Option(help="Only of this machine, by its host name.")] = "",
) -> None:
    """Set how many processes each `flowbed worker --processes N` keeps; it follows within seconds."""
    from flowbed.ledger.workers import PROCESSES

    common.with_bed(lambda bed: _rows(bed).mark(PROCESSES, host, processes))
    where = f"on {host}" if host else "on each machine"
    common.show(
        {"host": host, "processes": processes}, lambda _: say(f"{count(processes, 'process')} {where}")
    )


def pause(common: Common, queue: Queue) -> None:
    """Stop taking tasks of a queue; what runs ends."""
    from flowbed.ledger.workers import PAUSED

    _checked(queue)
    common.with_bed(lambda bed: _rows(bed).mark(PAUSED, queue, 1))
    common.show({"queue": queue, "paused": True}, lambda _: say(f"{queue} is paused"))


def resume(common: Common, queue: Queue) -> None:
    """Take tasks of a paused queue again."""
    from flowbed.ledger.workers import PAUSED

    _checked(queue)
    was = common.with_bed(lambda bed: _rows(bed).unmark(PAUSED, [queue]))
    common.show(
        {"queue": queue, "paused": False},
        lambda _: say(f"{queue} goes on" if was else f"{queue} was not paused"),
    )


def drain(
    common: Common,
    worker: Annotated[str, typer.Argument(metavar="ID", help="An id of `flowbed workers list`.")],
) -> None:
    """Let a worker finish what it runs, and end."""

    async def ask(bed: Flowbed) -> None:
        from flowbed.ledger.workers import LEAVE

        rows = _rows(bed)
        if worker not in {row.id for row in await rows.all()}:
            raise NotFound(f"there is no worker {worker!r}; `flowbed workers list` names them")
        await rows.mark(LEAVE, worker, 1)

    common.with_bed(ask)
    common.show({"worker": worker, "draining": True}, lambda _: say(f"{worker} finishes what it runs"))


def _rows(bed: Flowbed) -> Workers:
    from flowbed.ledger.workers import HoldsWorkers

    if not isinstance(bed.ledger, HoldsWorkers):
        raise Misconfigured(
            "this ledger keeps no workers: set `ledger` to a path or to postgresql://user@host/database"
        )
    return bed.ledger.workers


def _checked(queue: str) -> None:
    from flowbed.workers.opening import QUEUES

    if queue not in QUEUES:
        raise NotFound(f"there is no queue {queue!r}; there are {', '.join(QUEUES)}")


def _public(row: WorkerRow) -> dict[str, Any]:
    return {
        "id": row.id,
        "host": row.host,
        "pid": row.pid,
        "version": row.version,
        "state": row.state,
        "queues": orjson.loads(row.queues),
        "running": orjson.loads(row.running),
        "silent_seconds": round(row.silent / 1e6, 1),
    }


def _show(
    rows: list[WorkerRow], found: Mapping[str, Depth], paused: Mapping[str, int], *, listed: bool
) -> None:
    if not rows and listed:
        say("there are no workers: `flowbed worker` starts one")
    elif not rows:
        say("with the engine local, as over SQLite, a worker is not listed: `flowbed worker` is one process")
    for row in rows:
        running = orjson.loads(row.running)
        work = ", ".join(running) if running else "idle"
        say(f"{row.id}  {row.state}, heard of {row.silent / 1e6:.0f} s ago, {row.version}")
        say(f"    {', '.join(orjson.loads(row.queues))}: {work}")
    for name, each in found.items():
        oldest = f", the oldest for {each.oldest_seconds:.0f} s" if each.oldest_seconds else ""
        say(f"{name}: {each.waiting:,} waiting{oldest}{'; PAUSED' if name in paused else ''}")
    for name in sorted(paused.keys() - found.keys()):  # what waits in these is not counted
        say(f"{name}: PAUSED")
