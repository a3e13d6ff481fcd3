"""The jobs of the Batch API, as their owners see them; `working` does what they ask for."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import orjson

from flowbed.errors import Conflict, NotFound, Rejected
from flowbed.ledger import JobRow
from flowbed.services.batches.input_lines import ENDPOINT
from flowbed.services.files import BATCH, IDS, KEPT_MOST, new_id

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from flowbed.ledger import Jobs as JobRows
    from flowbed.records.serving import Caller
    from flowbed.services.files import Files

WINDOW = "24h"
WINDOW_US = 86_400_000_000


class Jobs:
    """Jobs of many owners; an owner is the id of an API key, or empty."""

    def __init__(
        self, rows: JobRows, files: Files, *, clock: Callable[[], int], secret: Callable[[], str]
    ) -> None:
        """Take the ledger's rows and the files; `clock` tells µs since 1970, `secret` makes 32 random bytes as text."""
        self._rows, self._files = rows, files
        self._clock, self._secret = clock, secret
        self.changed = asyncio.Event()  # set where there is something new to do
        self.queueing = asyncio.Lock()  # held while it is found out whether a job fits into its owner's queue

    async def create(
        self, caller: Caller, *, file: str, metadata: Mapping[str, str] | None, keep: int | None
    ) -> JobRow:
        """Take a job on; what is wrong with its input is found out later.

        The files that it makes are kept for `keep` seconds, or 30 days.

        Raises:
            NotFound: there is no such file.
            Rejected: it was sent for another purpose.
        """
        owner = caller.key or ""
        try:
            input = await self._files.get(owner, file)  # noqa: A001 - the record's own field
        except NotFound as error:
            raise NotFound(str(error), param="input_file_id") from error
        if input.purpose != BATCH:
            raise Rejected(
                f"File {file} was sent with purpose {input.purpose}; a batch needs one of purpose {BATCH}.",
                param="input_file_id",
                code="invalid_value",
            )
        now = self._clock()
        row = JobRow(
            id=new_id("batch_", self._secret()),
            owner=owner,
            tier=caller.tier,
            input=input.id,
            endpoint=ENDPOINT,
            window=WINDOW,
            created=now,
            expires=now + WINDOW_US,
            metadata=orjson.dumps(metadata).decode(),
            keep=KEPT_MOST if keep is None else keep,
        )
        await self._rows.create(row)
        self.changed.set()
        return row

    async def get(self, owner: str, id: str) -> JobRow:  # noqa: A002 - the record's own field
        """Describe a job.

        Raises:
            NotFound: there is none of that id, or it is somebody else's.
        """
        row = await self._rows.get(id) if IDS.fullmatch(id) else None
        if row is None or row.owner != owner:
            raise NotFound(f"No batch found with id '{id}'.", param="id")
        return row

    async def list(self, owner: str, *, after: str | None = None, limit: int) -> tuple[list[JobRow], bool]:
        """List jobs of an owner, newest first, and tell whether more follow.

        Raises:
            NotFound: there is no job `after`.
        """
        if after is not None:
            await self.get(owner, after)
        rows = await self._rows.list(owner, after=after, limit=limit + 1)
        return list(rows[:limit]), len(rows) > limit

    async def cancel(self, owner: str, id: str) -> JobRow:  # noqa: A002
        """Ask for the end of a job: what is answered until then is kept.

        Raises:
            NotFound: as `get`.
            Conflict: it has ended already.
        """
        await self.get(owner, id)
        row = await self._rows.cancel(id)
        if row is None or row.ended:
            state = "gone" if row is None else row.state
            raise Conflict(f"Cannot cancel a batch with status '{state}'.")
        self.changed.set()
        return row

    async def counts(self) -> dict[str, int]:
        """Count the jobs of every owner that have not ended, by state."""
        found: dict[str, int] = {}
        async for page in self._rows.pages():
            for row in page:
                found[row.state] = found.get(row.state, 0) + 1
        return found
