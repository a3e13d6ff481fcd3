"""The jobs of the Batch API as their owners see them; `stage` executes them."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import orjson

from flowbed.errors import Conflict, NotFound, Rejected
from flowbed.ledger import JobRow
from flowbed.records.tasks import Task
from flowbed.services.batches.input_lines import ENDPOINT
from flowbed.services.files import BATCH, IDS, KEPT_MOST, new_id

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from flowbed.ledger import Jobs as JobRows
    from flowbed.records.serving import Caller
    from flowbed.services.files import FileService
    from flowbed.services.stages import Hints

# The workflow that executes jobs, and its queue.
WORKFLOW, QUEUE = "job", "jobs"
JOBS = "batch_"  # what ids of jobs begin with
WINDOW = "24h"
WINDOW_US = 86_400_000_000


class JobService:
    """Jobs of many owners; an owner is the id of an API key, or ""."""

    def __init__(
        self,
        rows: JobRows,
        files: FileService,
        *,
        clock: Callable[[], int],
        secret: Callable[[], str],
        hints: Hints,
    ) -> None:
        """Use the ledger's jobs and the files; `clock` returns µs since 1970, `secret` 32 random bytes as text.

        `hints` are told of new work.
        """
        self._rows, self._files, self._hints = rows, files, hints
        self._clock, self._secret = clock, secret
        self.queueing = asyncio.Lock()  # held while checking whether a job fits into its owner's queue

    async def create(
        self, caller: Caller, *, file: str, metadata: Mapping[str, str] | None, keep: int | None
    ) -> JobRow:
        """Create a job; its input is checked later, by the worker.

        Its result files are kept for `keep` seconds, by default 30 days.

        Raises:
            NotFound: the input file does not exist.
            Rejected: the file has another purpose.
        """
        owner = caller.key or ""
        try:
            input = await self._files.get(owner, file)  # noqa: A001 - the record's own field
        except NotFound as error:
            raise NotFound(str(error), param="input_file_id") from error
        if input.purpose != BATCH:
            raise Rejected(
                f"File {file} has purpose {input.purpose}; a batch needs a file of purpose {BATCH}.",
                param="input_file_id",
                code="invalid_value",
            )
        now = self._clock()
        row = JobRow(
            id=new_id(JOBS, self._secret()),
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
        self._hints(task_of(row))
        return row

    async def get(self, owner: str, id: str) -> JobRow:  # noqa: A002 - the record's own field
        """Return a job.

        Raises:
            NotFound: the owner has no job of that id.
        """
        row = await self._rows.get(id) if IDS.fullmatch(id) else None
        if row is None or row.owner != owner:
            raise NotFound(f"No batch found with id '{id}'.", param="id")
        return row

    async def list(self, owner: str, *, after: str | None = None, limit: int) -> tuple[list[JobRow], bool]:
        """List jobs of an owner, newest first, and tell whether more follow.

        Raises:
            NotFound: the job `after` does not exist.
        """
        if after is not None:
            await self.get(owner, after)
        rows = await self._rows.list(owner, after=after, limit=limit + 1)
        return list(rows[:limit]), len(rows) > limit

    async def cancel(self, owner: str, id: str) -> JobRow:  # noqa: A002
        """Request the end of a job; results up to that point are kept.

        Raises:
            NotFound: the owner has no job of that id.
            Conflict: the job has already ended.
        """
        await self.get(owner, id)
        row = await self._rows.cancel(id)
        if row is None or row.ended:
            state = "gone" if row is None else row.state
            raise Conflict(f"Cannot cancel a batch with status '{state}'.")
        self._hints(task_of(row))
        return row

    async def counts(self) -> dict[str, int]:
        """Count unfinished jobs of all owners by state."""
        found: dict[str, int] = {}
        async for page in self._rows.pages():
            for row in page:
                found[row.state] = found.get(row.state, 0) + 1
        return found


def task_of(row: JobRow) -> Task:
    """Return the task of a job; owners take turns."""
    return Task(workflow=WORKFLOW, key=row.id, queue=QUEUE, partition=row.owner)
