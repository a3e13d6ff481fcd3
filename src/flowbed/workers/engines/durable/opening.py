"""Opens the engine: what DBOS is configured with."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING

import dbos
from dbos import DBOS

from flowbed.workers import VERSION
from flowbed.workers.engines.durable.database import Forward, log_trouble
from flowbed.workers.engines.durable.engine import DurableEngine

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from flowbed.workers import CarryOut, Limits
    from flowbed.workers.engines.durable.database import Trouble

SCHEMA = "flowbed_engine"  # of its tables, beside those of the ledger
# Seconds between two looks for schedules that were added or changed.
LOOK_FOR_SCHEDULES = 30.0


async def open_durable(
    worker: str,
    queues: Mapping[str, Limits],
    carry_out: CarryOut,
    *,
    url: str,
    name: str,
    clock: Callable[[], int],
    version: str = VERSION,
    connections: int = 5,
    trouble: Trouble = log_trouble,
) -> DurableEngine:
    """Open the engine over the database at `url`, for the project `name`; `trouble` hears of its database.

    Raises:
        Misconfigured: the database refuses it.
        Transient: the database cannot be reached.
    """
    logger = logging.getLogger("dbos")
    logger.handlers, logger.propagate = [Forward(trouble)], False
    config: dbos.DBOSConfig = {
        "name": name,
        "system_database_url": url,
        "dbos_system_schema": SCHEMA,
        "sys_db_pool_size": connections,
        "application_version": version,
        "executor_id": worker,
        "log_level": "WARNING",
        "serializer": dbos.DBOSPortableJSONSerializer(),  # instead of pickle
        # Works behind a pooler too: no LISTEN, and no statement that is prepared in one session and used in another.
        "use_listen_notify": False,
        "scheduler_polling_interval_sec": LOOK_FOR_SCHEDULES,
    }
    if not url.startswith("sqlite"):
        config["db_engine_kwargs"] = {"connect_args": {"prepare_threshold": None}}
    engine = DurableEngine(worker, queues, carry_out, clock=clock, config=config)
    try:
        engine.open()
        await asyncio.to_thread(engine.register)
    except BaseException:
        await asyncio.to_thread(DBOS.destroy, destroy_registry=True)
        raise
    return engine
