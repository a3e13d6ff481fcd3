"""Opens workers: beside the requests of a server, or as processes of their own."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

from flowbed.errors import Misconfigured
from flowbed.ledger.index_jobs import STAGES as INDEX_JOB_STAGES
from flowbed.ledger.workers import HoldsWorkers
from flowbed.records.values import suggestion
from flowbed.services.batches import stage
from flowbed.services.batches.jobs import QUEUE as JOBS
from flowbed.services.batches.jobs import WORKFLOW as JOB
from flowbed.services.batches.stage import UPKEEP
from flowbed.services.jobs.stage import PLACES
from flowbed.services.vector_stores.stage import AT_ONCE as STORES_AT_ONCE
from flowbed.services.vector_stores.stage import QUEUE as STORES
from flowbed.services.vector_stores.stage import WORKFLOW as STORE_WORK
from flowbed.workers import Limits
from flowbed.workers.engines.local import open_local
from flowbed.workers.membership import Care, Timing
from flowbed.workers.outage import Outage
from flowbed.workers.pipeline import BATCH, COMMIT, EMBED, FETCH, schedules_of, stages_of
from flowbed.workers.relieving import relieve
from flowbed.workers.worker import Worker

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping, Sequence

    from flowbed.bed import Flowbed
    from flowbed.services.service import Service
    from flowbed.services.stages import Hints, Stage
    from flowbed.settings import Settings
    from flowbed.workers import Opener

# Seconds between two looks for work that other processes made or died of. Nothing is waited for at the end: a job goes
# on in another process, or with the next start.
BESIDE_REQUESTS = Timing(sweep=1.0, grace=0.0)
# The queues, and how many of their tasks run at once in one worker; of a collection, one commit in all.
QUEUES: Mapping[str, Limits] = {
    FETCH: Limits(worker=2),
    EMBED: Limits(worker=4),
    BATCH: Limits(worker=1),
    COMMIT: Limits(worker=2, partition=1),
    JOBS: Limits(worker=8),
    **{queue: Limits(worker=places) for queue, places in PLACES.items()},
    STORES: Limits(worker=STORES_AT_ONCE),
    UPKEEP: Limits(worker=1),
}
# Seconds between two looks at queues that nobody waits for.
SELDOM = 2.0


def worker_beside_requests(
    service: Service, stages: Sequence[Stage], *, timing: Timing = BESIDE_REQUESTS
) -> Worker:
    """Create the worker of a server's process, with an engine in this process; other processes are told nothing."""
    ledger = service.bed.ledger
    return Worker(
        service.bed.worker(),
        stages,
        {
            JOBS: Limits(worker=stage.AT_ONCE),
            UPKEEP: Limits(worker=1),
            STORES: Limits(worker=STORES_AT_ONCE),
            **{queue: Limits(worker=places) for queue, places in PLACES.items()},
        },
        open_local,
        clock=service.bed.clock,
        hints=service.hints,
        rows=ledger.workers if isinstance(ledger, HoldsWorkers) else None,
        timing=timing,
    )


def open_worker(
    bed: Flowbed,
    stages: Sequence[Stage],
    hints: Hints,
    *,
    queues: Collection[str] = (),
    concurrency: int | None = None,
) -> Worker:
    """Create a worker for the stages of a project and others, of some queues or of all.

    `concurrency` is how many tasks of each queue it runs at once; by default, the settings say.

    Raises:
        Misconfigured: there is no such queue, or the engine cannot be used with this ledger.
    """
    config = bed.settings
    limits = limits_of(config, queues, concurrency)
    ledger, given = bed.ledger, config.workers
    rows = ledger.workers if isinstance(ledger, HoldsWorkers) else None
    durable = is_durable(config)
    if durable and rows is None:
        raise Misconfigured(
            "the durable engine needs a ledger in SQLite or Postgres: set engine in [workers] to local"
        )
    # Its database and the ledger are one, so that they are away together, and that is said once.
    outage = Outage("the ledger", monotonic=bed.monotonic)
    return Worker(
        bed.worker(),
        [*stages_of(bed), *stages],
        limits,
        _durable(bed, outage.failed) if durable else open_local,
        clock=bed.clock,
        monotonic=bed.monotonic,
        hints=hints,
        rows=rows,
        care=Care(
            dead=bed.dead,
            relieve=partial(relieve, ledger, clock=bed.clock),
            letters=ledger.dead_letters,
            counting=frozenset({*INDEX_JOB_STAGES, STORE_WORK, JOB}),
        )
        if durable
        else None,
        timing=Timing(
            beat=given.beat_seconds,
            dead=given.dead_seconds,
            sweep=given.sweep_seconds,
            grace=given.grace_seconds,
        ),
        schedules={name: each for name, each in schedules_of(bed).items() if each[0].queue in limits},
        outage=outage,
    )


def is_durable(config: Settings) -> bool:
    """Return whether the engine of workers is the durable one, which many processes share."""
    if config.workers.engine == "auto":
        return config.ledger.startswith(("postgresql://", "postgres://"))
    return config.workers.engine == "durable"


def limits_of(
    config: Settings, queues: Collection[str] = (), concurrency: int | None = None
) -> dict[str, Limits]:
    """Return the limits of queues, of those named or of all.

    Raises:
        Misconfigured: there is no such queue.
    """
    for name in (*queues, *config.workers.queues):
        if name not in QUEUES:
            raise Misconfigured(
                f"there is no queue {name!r}{suggestion(name, list(QUEUES))}; there are {', '.join(QUEUES)}"
            )
    found = {}
    for name, limits in QUEUES.items():
        if queues and name not in queues:
            continue
        given = config.workers.queues.get(name)
        worker = concurrency or (given.worker if given and given.worker else limits.worker)
        everywhere = given.everywhere if given and given.everywhere else limits.everywhere
        poll = SELDOM if name in {UPKEEP, BATCH} else config.workers.poll_seconds
        # What runs in one worker counts in all: the smaller limit is the stricter one.
        found[name] = replace(
            limits,
            worker=min(worker, everywhere) if everywhere else worker,
            everywhere=everywhere,
            poll=poll,
        )
    return found


def _durable(bed: Flowbed, trouble: Callable[[object], None]) -> Opener:
    from flowbed.workers.engines.durable.opening import open_durable  # loads DBOS

    config = bed.settings
    # In SQLite it has a file of its own: its writes would stand in the way of the ledger's.
    url = config.ledger if "://" in config.ledger else f"sqlite:///{bed.folder}/.flowbed/tasks.db"
    return partial(
        open_durable,
        url=url,
        name=f"flowbed-{bed.ledger.id[:16]}",
        connections=config.workers.connections,
        trouble=trouble,
    )
