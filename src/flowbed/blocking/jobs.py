"""Jobs, for synchronous code."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Mapping, Sequence
    from pathlib import Path

    from flowbed.services.jobs.project_jobs import Job, ProjectJobs


class BlockingJobs:
    """Jobs that write documents into collections in the background: every call of `bed.jobs`, run to its end."""

    def __init__(self, jobs: ProjectJobs, wait: Callable[[Coroutine[Any, Any, Any]], Any]) -> None:
        """Use `Blocking.jobs`."""
        self._jobs, self._wait = jobs, wait

    def create(
        self,
        collection: str,
        *,
        texts: Sequence[str | Mapping[str, Any]] = (),
        files: Sequence[str | Path] = (),
        reembed: bool = False,
        model: str = "",
        into: str = "",
        capacity: int | None = None,
        priority: int = 50,
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
        made: Job = self._wait(
            self._jobs.create(
                collection,
                texts=texts,
                files=files,
                reembed=reembed,
                model=model,
                into=into,
                capacity=capacity,
                priority=priority,
                metadata=metadata,
                idempotency_key=idempotency_key,
            )
        )
        return made

    def get(self, id: str) -> Job:  # noqa: A002 - the record's own field
        """Return a job, of the project or of any key.

        Raises:
            NotFound: there is none of that id.
        """
        job: Job = self._wait(self._jobs.get(id))
        return job

    def list(
        self, *, status: Sequence[str] = (), collection: str = "", after: str | None = None, limit: int = 20
    ) -> list[Job]:
        """List jobs, newest first; only those of some states or of a collection, and that follow the id `after`.

        Raises:
            NotFound: the job `after` does not exist.
        """
        found: list[Job] = self._wait(
            self._jobs.list(status=status, collection=collection, after=after, limit=limit)
        )
        return found

    def cancel(self, id: str, *, rollback: bool = False) -> Job:  # noqa: A002
        """Request the end of a job: whole documents that are finished are kept, or with `rollback` nothing of it.

        Raises:
            NotFound: there is none of that id.
        """
        job: Job = self._wait(self._jobs.cancel(id, rollback=rollback))
        return job

    def retry(self, id: str) -> Job:  # noqa: A002
        """Queue a job that failed or was cancelled again.

        Raises:
            NotFound: there is none of that id.
            Conflict: it has not failed.
        """
        job: Job = self._wait(self._jobs.retry(id))
        return job

    def wait(self, id: str, *, timeout: float | None = None) -> Job:  # noqa: A002
        """Wait until a job has ended, and return it. What no server or worker takes is executed here meanwhile.

        Raises:
            NotFound: there is none of that id.
            Transient: it has not ended after `timeout` seconds.
        """
        job: Job = self._wait(self._jobs.wait(id, timeout=timeout))
        return job
