"""Claim the next groups of chunks while one is processed."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from collections.abc import Sequence

    from flowbed.lanes.claims import Claims
    from flowbed.ledger import ChunkRow

# Groups claimed ahead: as many as are processed while the ledger records one submission.
GROUPS = 3


class Prefetch:
    """Groups of claimed chunks; the next are claimed while one is processed."""

    def __init__(self, claims: Claims) -> None:
        """Start claiming."""
        self._claims = claims
        self._groups: asyncio.Queue[list[ChunkRow]] = asyncio.Queue()
        self._room = asyncio.Semaphore(GROUPS)
        self._turn = asyncio.Lock()
        self._closed = False
        self._claiming = asyncio.create_task(self._claim())

    def __aiter__(self) -> Self:
        """Iterate over the groups, oldest first."""
        return self

    async def __anext__(self) -> list[ChunkRow]:
        """Wait for the next group; an error of claiming is raised here."""
        rows = await self._groups.get()
        if not rows:
            await self._claiming
            raise StopAsyncIteration
        self._room.release()
        return rows

    async def bind(self, rest: Sequence[ChunkRow], submission: str) -> None:
        """Bind the rest of a group and the groups claimed ahead to a submission, and claim for that one from now on."""
        context = self._claims.context
        async with self._turn:
            prefetched = [self._groups.get_nowait() for _ in range(self._groups.qsize())]
            for group in prefetched:
                self._groups.put_nowait(group)
            rows = [*rest, *(row for group in prefetched for row in group), *self._claims.held]
            await context.ledger.chunks.bind(rows, worker=context.worker, submission=submission)
            self._claims.submission = submission

    async def aclose(self) -> None:
        """Stop claiming; the claimed chunks are released with everything that this worker holds."""
        self._closed = True
        self._room.release()
        # Not cancelled: a claim under way would succeed after everything was released.
        await asyncio.gather(self._claiming, return_exceptions=True)

    async def _claim(self) -> None:
        groups = self._claims.groups(None)
        rows: list[ChunkRow] | None = None
        try:
            while rows != []:
                await self._room.acquire()
                async with self._turn:
                    rows = [] if self._closed else await anext(groups, [])
                    self._groups.put_nowait(rows)
        except BaseException:
            # Wake the consumer: `__anext__` raises the error.
            self._groups.put_nowait([])
            raise
