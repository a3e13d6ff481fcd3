"""Ahead: while one group of claimed chunks is worked on, the next are claimed."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from collections.abc import Sequence

    from flowbed.lanes.claims import Claims
    from flowbed.ledger import ChunkRow

# Groups that may be claimed ahead: as many as are worked on while the ledger takes in one submission.
GROUPS = 3


class Ahead:
    """Groups of claimed chunks: while one is worked on, the next are claimed."""

    def __init__(self, claims: Claims) -> None:
        """Begin to claim."""
        self._claims = claims
        self._groups: asyncio.Queue[list[ChunkRow]] = asyncio.Queue()
        self._room = asyncio.Semaphore(GROUPS)
        self._turn = asyncio.Lock()
        self._over = False
        self._claiming = asyncio.create_task(self._claim())

    def __aiter__(self) -> Self:
        """Give the groups, the oldest first."""
        return self

    async def __anext__(self) -> list[ChunkRow]:
        """Wait for the next group; what made claiming fail is raised here."""
        rows = await self._groups.get()
        if not rows:
            await self._claiming
            raise StopAsyncIteration
        self._room.release()
        return rows

    async def bind(self, rest: Sequence[ChunkRow], submission: str) -> None:
        """Put the rest of a group and what is claimed beyond it into a submission, and claim for that from now on."""
        context = self._claims.context
        async with self._turn:
            beyond = [self._groups.get_nowait() for _ in range(self._groups.qsize())]
            for group in beyond:
                self._groups.put_nowait(group)
            rows = [*rest, *(row for group in beyond for row in group), *self._claims.held]
            await context.ledger.chunks.bind(rows, worker=context.worker, submission=submission)
            self._claims.submission = submission

    async def aclose(self) -> None:
        """Claim no more; what was claimed is given back with everything that this worker holds."""
        self._over = True
        self._room.release()
        # Not cancelled: a claim under way would be won after everything was given back.
        await asyncio.gather(self._claiming, return_exceptions=True)

    async def _claim(self) -> None:
        groups = self._claims.groups(None)
        rows: list[ChunkRow] | None = None
        try:
            while rows != []:
                await self._room.acquire()
                async with self._turn:
                    rows = [] if self._over else await anext(groups, [])
                    self._groups.put_nowait(rows)
        except BaseException:
            # Whoever waits for a group hears that there is none, and why.
            self._groups.put_nowait([])
            raise
