"""Several channels are read at once, so that none waits for another that is stuck; no I/O."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from dataclasses import dataclass
from itertools import count
from typing import TYPE_CHECKING, Generic, TypeVar

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Sequence

T = TypeVar("T")

# Channels that are read at once: with a second for each call, a few use all that a chat allows.
AT_ONCE = 4
# Every so many turns, the longest waiting one comes first whatever its rank, so that the past of channels is read too
# where listing their last days again takes all of a run.
FAIR = 4


@dataclass
class Work(Generic[T]):
    """A channel's work: `rank` says what it will do next, the lowest of which is the most urgent."""

    name: str
    steps: AsyncGenerator[T]
    rank: Callable[[], int]
    served: int = -1


async def in_turns(works: Sequence[Work[T]], *, over: Callable[[], bool]) -> AsyncGenerator[tuple[str, T]]:
    """Yield the results of all works as they come, each with the name of its work; one step of each at a time.

    Once the time is `over`, steps that have begun are finished, and no others begin: so every run advances. The first
    exception of a step ends all of them.
    """
    waiting, turns = list(works), count()
    running: dict[asyncio.Task[T], Work[T]] = {}
    try:
        while running or (waiting and not over()):
            while waiting and len(running) < AT_ONCE and not over():
                turn = next(turns)
                # The last served comes last among equals.
                following = min(
                    waiting, key=lambda each: (each.rank() if turn % (FAIR + 1) < FAIR else 0, each.served)
                )
                waiting.remove(following)
                following.served = turn
                running[asyncio.ensure_future(anext(following.steps))] = following
            done, _ = await asyncio.wait(running, return_when=asyncio.FIRST_COMPLETED)
            for task in sorted(done, key=lambda each: running[each].served):
                work = running.pop(task)
                with suppress(StopAsyncIteration):
                    found = task.result()
                    waiting.append(work)
                    yield work.name, found
    finally:
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)
        for work in works:
            await work.steps.aclose()
