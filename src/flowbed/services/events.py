"""Events over HTTP: what they tell of is queued before the answer, and embedded after it."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Self

from flowbed.errors import Error, Rejected

if TYPE_CHECKING:
    from collections.abc import Collection

    from flowbed.events.replay import Replayed
    from flowbed.records.events import Handled
    from flowbed.services.project import Project

log = logging.getLogger("flowbed")
# Seconds before embedding is tried again after a failure, at first and at most: a provider that is down is not called
# more often.
FIRST_PAUSE, LONGEST_PAUSE = 5.0, 300.0


class EventService:
    """Takes in events, and embeds what they tell of in the background, one piece of work at a time.

    What is queued is in the ledger: a server that is killed leaves it to the next event, run or watch.
    """

    def __init__(self, bed: Project) -> None:
        """Work on a project; use it as a context."""
        self._bed = bed
        self._told = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        """Use the service."""
        return self

    async def __aexit__(self, *_: object) -> None:
        """Stop embedding; claims are released, and what is left waits."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def accept(self, body: bytes) -> Handled:
        """Queue what an event tells of.

        Raises:
            Rejected: it is not JSON, or its shape is unknown.
        """
        told = await self._bed.take_in(body)
        if told.batches:
            self._begin()
        return told

    async def replay(self, *, source: str, day: str, batch: str) -> Replayed:
        """Queue again what failed of a source, a day or a batch file.

        Raises:
            NotFound: nothing of it has failed.
            Rejected: nothing is named, or `day` is no day.
        """
        if not (source or day or batch):
            raise Rejected("name what to reprocess: a source, a day or a batch", param="source")
        done = await self._bed.replay(source=source, day=day, batch=batch)
        if done.waiting:
            self._begin()
        return done

    async def retry(self, subjects: Collection[str]) -> Replayed:
        """Queue again what failed of the dead letters with these subjects, or of all if there are none.

        Raises:
            NotFound: there is no such dead letter.
        """
        done = await self._bed.replay(*subjects)
        if done.waiting:
            self._begin()
        return done

    def _begin(self) -> None:
        self._told.set()
        if self._task is None:
            self._task = asyncio.create_task(self._embed())

    async def _embed(self) -> None:
        pause = FIRST_PAUSE
        while True:
            await self._told.wait()
            self._told.clear()
            try:
                report = await self._bed.embed_waiting()
                problem = "; ".join(f"{each.subject}: {each.reason}" for each in report.failures[:1])
                left = report.waiting
            except Error as error:
                problem, left = str(error), 1
            if problem:
                log.warning("embedding after an event: %s", problem)
            if not (problem and left):
                pause = FIRST_PAUSE
                continue
            self._told.set()
            await asyncio.sleep(pause)
            pause = min(LONGEST_PAUSE, 2 * pause)
