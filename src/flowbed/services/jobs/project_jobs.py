"""The jobs of an open project, for programs in the same process: `bed.jobs`."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import orjson

from flowbed.errors import Rejected, Transient
from flowbed.ledger.index_jobs import shown_state
from flowbed.records.serving import Caller
from flowbed.services.files import FileDescription, FileService
from flowbed.services.jobs.jobs import IndexJobService
from flowbed.services.jobs.notes import counts_of, progress_of
from flowbed.services.jobs.requests import PRIORITY, IndexRequest, JobDocument, JobFile
from flowbed.services.quotas import QuotaService
from flowbed.services.stages import Hints

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Mapping, Sequence

    from flowbed.ledger.index_jobs import IndexJobRow
    from flowbed.services.project import Project

# Who owns the project may do everything, and is no key.
OWNER = Caller(name="the project", admin=True)
# Seconds between two looks at a job that another process executes.
LOOK_SECONDS = 0.5
PIECE_BYTES = 1 << 20


@dataclass(frozen=True, kw_only=True)
class Job:
    """A job that writes documents into a collection.

    `status` is queued, running, cancelling, completed, failed or cancelled; `stage` is chunking, embedding or storing,
    empty once it has ended. `counts` are of documents and chunks, `chunks` being None until they are counted;
    `progress` goes from 0 to 1. `reason` says what it waits for, until `due`; `error` why it failed, and `errors` what
    is wrong with single documents. Times are µs since 1970, 0 where there is none yet.
    """

    id: str
    collection: str
    kind: str
    status: str
    stage: str
    priority: int
    created: int
    started: int = 0
    ended: int = 0
    counts: Mapping[str, int | None] = field(default_factory=dict)
    progress: float = 0.0
    tokens: int = 0
    estimated_usd: float = 0.0
    billed_usd: float = 0.0
    metadata: Mapping[str, str] = field(default_factory=dict)
    reason: str = ""
    due: int = 0
    error: str = ""
    errors: Sequence[Mapping[str, str]] = ()


class ProjectJobs:
    """Jobs that write documents into collections in the background: by a server, by workers, or by `wait`."""

    def __init__(self, bed: Project, *, checked: Callable[[str, str], str]) -> None:
        """Use `Flowbed.jobs`; `checked` refuses a name that cannot be one of its kind."""
        self._bed, self._checked = bed, checked

    async def create(
        self,
        collection: str,
        *,
        texts: Sequence[str | Mapping[str, Any]] = (),
        files: Sequence[str | Path] = (),
        reembed: bool = False,
        model: str = "",
        into: str = "",
        capacity: int | None = None,
        priority: int = PRIORITY,
        metadata: Mapping[str, str] | None = None,
        idempotency_key: str | None = None,
    ) -> Job:
        """Create a job; what it is to write is durable when this returns.

        Args:
            collection: the collection to write to, created if absent.
            texts: texts, alone or as mappings with `text` and optionally `id`, `title`, `kind` (`text` or `markdown`)
                and `metadata`. A document of the same id is replaced.
            files: files to copy and to read as a source of files reads them; the id of each is its name.
            reembed: write every row of the collection again from its stored text.
            model: with `reembed`, one of the models in `[serve]` to embed the rows with, as vendor:model.
            into: the new collection for the vectors of that model; the old one stays as it is.
            capacity: most tokens of a chunk.
            priority: 0 to 100; higher is sooner.
            metadata: the job's own.
            idempotency_key: within a day, the same key with the same request returns the job that is there.

        Raises:
            Rejected: there is nothing to do, or something of it is invalid.
            NotFound: the collection to embed again, or a file, does not exist.
        """
        self._checked(collection, "collection")
        async with self._service() as service:
            request = IndexRequest(
                collection=collection,
                documents=[_document(each) for each in texts],
                files=[await self._stored(service.files, Path(each)) for each in files],
                reembed=reembed,
                model=model,
                into=into,
                capacity=capacity,
                priority=priority,
                metadata=metadata or {},
                idempotency=idempotency_key,
            )
            row, _ = await service.create(OWNER, request)
        return job_of(row)

    async def get(self, id: str) -> Job:  # noqa: A002 - the record's own field
        """Return a job, of the project or of any key.

        Raises:
            NotFound: there is none of that id.
        """
        async with self._service() as service:
            return job_of(await service.get(None, id))

    async def list(
        self, *, status: Sequence[str] = (), collection: str = "", after: str | None = None, limit: int = 20
    ) -> list[Job]:
        """List jobs, newest first; only those of some states or of a collection, and that follow the id `after`.

        Raises:
            NotFound: the job `after` does not exist.
        """
        async with self._service() as service:
            rows, _ = await service.list(None, states=status, collection=collection, after=after, limit=limit)
        return [job_of(row) for row in rows]

    async def cancel(self, id: str, *, rollback: bool = False) -> Job:  # noqa: A002
        """Request the end of a job: whole documents that are finished are kept, or with `rollback` nothing of it.

        Raises:
            NotFound: there is none of that id.
        """
        async with self._service() as service:
            return job_of(await service.cancel(None, id, rollback=rollback))

    async def retry(self, id: str) -> Job:  # noqa: A002
        """Queue a job that failed or was cancelled again.

        Raises:
            NotFound: there is none of that id.
            Conflict: it has not failed.
        """
        async with self._service() as service:
            return job_of(await service.retry(None, id))

    async def wait(self, id: str, *, timeout: float | None = None) -> Job:  # noqa: A002, ASYNC109 - of a whole job
        """Wait until a job has ended, and return it. What no server or worker takes is executed here meanwhile.

        Raises:
            NotFound: there is none of that id.
            Transient: it has not ended after `timeout` seconds.
        """
        try:
            async with asyncio.timeout(timeout), self._service() as service:
                return job_of(await self._ended(service, id))
        except TimeoutError as error:
            raise Transient(
                f"job {id} has not ended after {timeout:g} s: wait longer, or let `flowbed serve` or `flowbed worker`"
                " go on with it"
            ) from error

    async def _ended(self, service: IndexJobService, id_: str) -> IndexJobRow:
        from flowbed.services.jobs.stage import finish_jobs

        while not (row := await service.get(None, id_)).ended:
            await finish_jobs(service)
            if not (row := await service.get(None, id_)).ended:
                await asyncio.sleep(LOOK_SECONDS)
        return row

    async def _stored(self, files: FileService, path: Path) -> JobFile:
        async def pieces() -> AsyncIterator[bytes]:
            try:
                with await asyncio.to_thread(path.open, "rb") as file:
                    while piece := await asyncio.to_thread(file.read, PIECE_BYTES):
                        yield piece
            except OSError as error:
                raise Rejected(f"file {path} cannot be read: {error.strerror}") from error

        described = FileDescription(purpose="user_data", filename=path.name)
        row = await files.create("", pieces(), described=lambda: described)
        return JobFile(file=row.id, id=path.name)

    @asynccontextmanager
    async def _service(self) -> AsyncIterator[IndexJobService]:
        bed = self._bed
        files = FileService(
            bed.store,
            bed.ledger.files,
            clock=bed.clock,
            secret=bed.secret,
            detach=bed.ledger.vector_store_files.detach,
        )
        async with QuotaService(bed.ledger, tiers=bed.serving.tiers, clock=bed.clock) as quotas:
            yield IndexJobService(bed, files, quotas, bed.serving, hints=Hints())


def job_of(row: IndexJobRow) -> Job:
    """Return a job as programs see it."""
    return Job(
        id=row.id,
        collection=row.collection,
        kind=row.kind,
        status=shown_state(row),
        stage="" if row.ended else row.stage,
        priority=row.priority,
        created=row.created,
        started=orjson.loads(row.stamps).get("running", 0),
        ended=row.ended,
        counts=counts_of(row),
        progress=progress_of(row),
        tokens=row.tokens,
        estimated_usd=row.estimated_usd,
        billed_usd=row.billed_usd,
        metadata=orjson.loads(row.metadata),
        reason=row.reason,
        due=row.due,
        error=row.error,
        errors=tuple(orjson.loads(row.faults)),
    )


def _document(each: str | Mapping[str, Any]) -> JobDocument:
    if isinstance(each, str):
        return JobDocument(id="", text=each)
    try:
        return JobDocument(**{"id": "", **each})
    except TypeError as error:
        raise Rejected(
            f"a text is a string, or a mapping with text, id, title, kind and metadata ({error})"
        ) from error
