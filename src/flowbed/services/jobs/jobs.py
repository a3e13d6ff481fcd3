"""The index jobs as their owners see them; `worker` executes them."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import orjson

from flowbed.errors import Conflict, Forbidden, Misconfigured, NotFound, Rejected
from flowbed.index.active_space import live_collection, require_collection
from flowbed.ledger.index_jobs import HoldsIndexJobs, IndexJobRow
from flowbed.records.names import is_store
from flowbed.services.embedding.served_model import allow
from flowbed.services.files import IDS, new_id
from flowbed.services.jobs.execution import JobParts
from flowbed.services.jobs.following import JobFollowing
from flowbed.services.jobs.notes import note
from flowbed.services.jobs.requests import FOLDER, KeyReused, encode, input_key
from flowbed.services.jobs.tasks import task_of
from flowbed.services.jobs.undo import replaced_key

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence

    from flowbed.ledger import Ledger
    from flowbed.ledger.index_jobs import IndexJobEvent, IndexJobs
    from flowbed.records.serving import Caller, Serving
    from flowbed.services.files import FileService
    from flowbed.services.jobs.requests import IndexRequest
    from flowbed.services.project import Project
    from flowbed.services.quotas import QuotaService
    from flowbed.services.stages import Hints

# A repeated request with the same idempotency key makes no other job for this long.
KEY_US = 86_400_000_000
# Jobs that have ended, their events, and the input of those that failed are kept for this long.
KEPT_US = 30 * 86_400_000_000
# The input of a job that was never recorded belongs to a process that was killed before that.
ORPHANED_US = 86_400_000_000
PAGE = 100
ENDED = ("completed", "failed", "cancelled")


class IndexJobService:
    """Jobs of many owners; an owner is the id of an API key, or ""."""

    def __init__(
        self, bed: Project, files: FileService, quotas: QuotaService, serving: Serving, *, hints: Hints
    ) -> None:
        """Work on a project, whose operator's choices are in `serving`; `hints` are told of new work."""
        self._bed, self._files, self._quotas = bed, files, quotas
        self._serving, self._hints = serving, hints
        self._clock = bed.clock
        self._following: JobFollowing | None = None

    @property
    def kept(self) -> bool:
        """Whether the project's ledger keeps jobs."""
        return isinstance(self._bed.ledger, HoldsIndexJobs)

    @property
    def parts(self) -> JobParts:
        """What the execution of jobs works with."""
        return JobParts(bed=self._bed, rows=self._rows, files=self._files, quotas=self._quotas)

    @property
    def files(self) -> FileService:
        """The stored files."""
        return self._files

    @property
    def following(self) -> JobFollowing:
        """What follows the events of jobs, for all clients of this process."""
        if self._following is None:
            self._following = JobFollowing(self._rows)
        return self._following

    @property
    def _rows(self) -> IndexJobs:
        return index_jobs_of(self._bed.ledger)

    async def create(self, caller: Caller, request: IndexRequest) -> tuple[IndexJobRow, bool]:
        """Create a job, and tell whether it was there already under the request's idempotency key.

        Raises:
            Forbidden: the caller may not write, or its key may not use the project's model.
            NotFound: a stored file, or the collection to embed again, does not exist.
            KeyReused: the idempotency key was used for another request.
            Rejected: the request is invalid.
        """
        id_, fingerprint = new_id("job_", self._bed.secret()), request.fingerprint
        request = request.named(id_)
        await self.check(caller, request)
        owner = caller.key or ""
        now = self._clock()
        row = IndexJobRow(
            id=id_,
            owner=owner,
            tier=caller.tier,
            collection=request.collection,
            kind=request.kind,
            model=self._spec(caller, request.model) if request.model else "",
            target=request.into,
            created=now,
            key=self._key(now, request.priority),
            fingerprint=fingerprint,
            priority=request.priority,
            cost=request.cost(),
            idempotency=request.idempotency,
            chunking=orjson.dumps(request.chunking).decode(),
            metadata=orjson.dumps(dict(request.metadata)).decode(),
        )
        # The input first: a job without one could only fail.
        await self._bed.store.create(input_key(row.id), await asyncio.to_thread(encode, request))
        created = note("created", now, collection=row.collection, priority=row.priority)
        made = await self._rows.create(row, created, since=now - KEY_US)
        if made.id == row.id:
            self._hints(task_of(made))
            return made, False
        await self._bed.store.delete([input_key(row.id)])
        if made.fingerprint != row.fingerprint:
            raise KeyReused(
                f"The idempotency key {request.idempotency!r} was used for another request; take a new key.",
                param="idempotency_key",
                code="idempotency_key_reused",
            )
        return made, True

    async def get(self, owner: str | None, id: str) -> IndexJobRow:  # noqa: A002 - the record's own field
        """Return a job of an owner, or of any for None.

        Raises:
            NotFound: the owner has no job of that id.
        """
        row = await self._rows.get(id) if IDS.fullmatch(id) else None
        if row is None or owner not in {None, row.owner}:
            raise NotFound(f"No job found with id '{id[:80]}'.", param="id")
        return row

    async def list(
        self,
        owner: str | None,
        *,
        states: Collection[str] = (),
        collection: str = "",
        after: str | None = None,
        limit: int,
        descending: bool = True,
    ) -> tuple[list[IndexJobRow], bool]:
        """List jobs, newest first unless told otherwise, and tell whether more follow.

        Raises:
            NotFound: the job `after` does not exist.
        """
        if after is not None:
            await self.get(owner, after)
        rows = await self._rows.list(
            owner,
            states=states,
            collection=collection,
            after=after,
            limit=limit + 1,
            descending=descending,
        )
        return list(rows[:limit]), len(rows) > limit

    async def cancel(self, owner: str | None, id: str, *, rollback: bool = False) -> IndexJobRow:  # noqa: A002
        """Request the end of a job: documents that are finished are kept, or with `rollback` nothing of it.

        A job that has ended stays as it is.

        Raises:
            NotFound: the owner has no job of that id.
        """
        await self.get(owner, id)
        how = "rollback" if rollback else "keep"
        row = await self._rows.cancel(id, how, note("cancelling", self._clock(), finished=how))
        if row is None:
            raise NotFound(f"No job found with id '{id[:80]}'.", param="id")
        if not row.ended:
            self._hints(task_of(row))
        return row

    async def change(
        self,
        owner: str | None,
        id: str,  # noqa: A002
        *,
        priority: int | None = None,
        metadata: Mapping[str, str] | None = None,
    ) -> IndexJobRow:
        """Change the priority or the metadata of a job; as it was created then, it keeps its age.

        Raises:
            NotFound: the owner has no job of that id.
            Conflict: the job has already ended.
        """
        row = await self.get(owner, id)
        wanted = row.priority if priority is None else priority
        changed = await self._rows.change(
            id,
            priority=wanted,
            key=self._key(row.created, wanted),
            metadata=row.metadata if metadata is None else orjson.dumps(dict(metadata)).decode(),
            note=note("changed", self._clock(), priority=wanted),
        )
        if changed is None or changed.ended:
            raise Conflict(f"The job {id} has ended, and cannot be changed.")
        return changed

    async def retry(self, owner: str | None, id: str) -> IndexJobRow:  # noqa: A002
        """Queue a job that failed, or was cancelled, again; documents that are stored are not embedded again.

        Raises:
            NotFound: the owner has no job of that id.
            Conflict: it has not failed, or its input is not kept any more.
        """
        row = await self.get(owner, id)
        if row.state not in {"failed", "cancelled"}:
            raise Conflict(f"The job {id} is {row.state}: only a failed or cancelled job can be tried again.")
        now = self._clock()
        again = await self._rows.reopen(id, key=self._key(now, row.priority), note=note("queued", now))
        if again is None:
            raise Conflict(f"The job {id} was started again meanwhile.")
        self._hints(task_of(again))
        return again

    async def events(self, after: Mapping[str, int], *, limit: int = PAGE) -> Sequence[IndexJobEvent]:
        """Return events of jobs that follow the number given for each."""
        return await self._rows.events(after, limit=limit)

    async def ahead(self, row: IndexJobRow) -> int:
        """Count the jobs of the same owner that come before a job."""
        return await self._rows.ahead(row)

    async def sweep(self) -> None:
        """Delete jobs that ended long ago, and the input of jobs that are not there."""
        now, store = self._clock(), self._bed.store
        while ids := await self._rows.forget(before=now - KEPT_US, limit=PAGE):
            await store.delete([key for job in ids for key in (input_key(job), replaced_key(job))])
        async for listed in store.list(FOLDER):
            job = listed.key.split("/")[1]
            if listed.modified < now - ORPHANED_US and await self._rows.get(job) is None:
                await store.delete([listed.key])

    def _key(self, created: int, priority: int) -> int:
        """Return the key by which jobs of one owner are ordered: a lower priority waits so much longer, and no more."""
        return created + round((100 - priority) * self._serving.priority_seconds * 1e6)

    async def check(self, caller: Caller, request: IndexRequest) -> None:
        """Check that a caller may write what a request says.

        Raises:
            Forbidden: the caller may not write, or its key may not use the project's model.
            NotFound: a stored file, or the collection, does not exist.
            Rejected: the request is invalid.
        """
        self.require_writer(caller)
        request.check()
        await self._require_there(caller.key or "", request)

    def require_writer(self, caller: Caller) -> None:
        """Require that a caller may write.

        Raises:
            Forbidden: it may not, or its key may not use the project's model.
        """
        serving, model = self._serving, self._bed.model
        tier = serving.tiers.get(caller.tier)
        if not (caller.admin or (tier is not None and tier.write)):
            raise Forbidden(
                f"Key `{caller.name}` may not write: its tier needs write = true in [serve.tiers.{caller.tier}]."
            )
        allow(model.partition(":")[2], {model, model.partition(":")[2]}, caller, serving)

    async def _require_there(self, owner: str, request: IndexRequest) -> None:
        for each in request.files:
            try:
                await self._files.get(owner, each.file)
            except NotFound as error:
                raise NotFound(str(error), param="file_id") from error
        if is_store(request.collection):
            raise NotFound(
                f"There is no collection {request.collection}; files are attached to vector stores by their own API.",
                param="collection",
            )
        if request.reembed:
            await require_collection(self._bed.store, request.collection)
        if request.into and (
            is_store(request.into) or await live_collection(self._bed.store, request.into) is not None
        ):
            raise Rejected(
                f"There is a collection {request.into} already: name one that there is not, since vectors of two models"
                " are never mixed.",
                param="into",
            )

    def _spec(self, caller: Caller, name: str) -> str:
        """Return a served model as vendor:model, if the caller may use it.

        Raises:
            NotFound: no served model has that name.
            Forbidden: the caller may not use it.
        """
        serving = self._serving
        wanted = serving.aliases.get(name, name)
        for spec in serving.models:
            names = {spec, spec.partition(":")[2]}
            if wanted in names:
                allow(name, names | {name}, caller, serving)
                return spec
        raise NotFound(
            f"The model `{name[:80]}` is not served: `models` in [serve] names those that are.",
            param="model",
            code="model_not_found",
        )


def index_jobs_of(ledger: Ledger) -> IndexJobs:
    """Return the jobs that a ledger keeps.

    Raises:
        Misconfigured: it keeps none.
    """
    if not isinstance(ledger, HoldsIndexJobs):
        raise Misconfigured(
            f"the ledger {ledger.location} keeps no jobs: set `ledger` to a path, or to a Postgres server"
        )
    jobs: Any = ledger.index_jobs
    return jobs  # type: ignore[no-any-return]
