"""The client for asyncio."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING, Any, Self

from flowbed.client.connection import Connection
from flowbed.client.documents import AsyncDocuments
from flowbed.errors import Transient
from flowbed.server.api.schemas.jobs import JobEvent, JobList, JobObject
from flowbed.server.api.schemas.search import FieldsResponse, SearchResponse

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Mapping, Sequence
    from typing import Literal

    Mode = Literal["vector", "text", "hybrid"]

# Seconds before a stream that broke is opened again, and how often in a row that may bring nothing.
AGAIN, ATTEMPTS = (0.1, 0.5, 1.0, 2.0, 5.0, 10.0), 6
# A job in one of these states changes no more, unless it is retried.
FINAL = frozenset({"completed", "failed", "cancelled"})


class AsyncClient:
    """A server of Flowbed. Use it, and close it, on one event loop."""

    def __init__(self, url: str = "http://127.0.0.1:8080", *, key: str = "") -> None:
        """Name the server and an API key, if it has keys; the first request connects.

        Raises:
            Misconfigured: the address is none of HTTP.
        """
        self._connection = Connection(url, key=key)
        self.jobs = AsyncJobs(self._connection)
        self.documents = AsyncDocuments(self._connection, self.jobs)

    async def __aenter__(self) -> Self:
        """Return the client; leaving the block closes it."""
        return self

    async def __aexit__(self, *_: object) -> None:
        """Close the connections."""
        await self.close()

    async def close(self) -> None:
        """Close the connections."""
        await self._connection.close()

    async def search(
        self,
        query: str | Sequence[float] | None = None,
        *,
        like: str | None = None,
        collection: str | None = None,
        where: Mapping[str, Any] | None = None,
        limit: int | None = None,
        mode: Mode | None = None,
        text: str | None = None,
        unit: Literal["chunk", "document"] | None = None,
        order: Literal["score", "newest", "oldest"] | None = None,
        since: str | float | None = None,
        before: str | float | None = None,
        rerank: bool | None = None,
        at: int | None = None,
        cursor: str | None = None,
    ) -> SearchResponse:
        """Find the rows nearest to a text, a vector, or the row `like`; the arguments are those of `Flowbed.find`.

        Raises:
            NotFound: there is no such collection, version or row.
            Rejected: an argument is invalid.
        """
        body = {
            "query": query,
            "like": like,
            "collection": collection,
            "where": where,
            "limit": limit,
            "mode": mode,
            "text": text,
            "unit": unit,
            "order": order,
            "since": since,
            "before": before,
            "rerank": rerank,
            "at": at,
            "cursor": cursor,
        }
        return await self._connection.call(SearchResponse, "POST", "/v1/search", body=body)

    async def fields(
        self, collection: str, *, where: Mapping[str, Any] | None = None, values: int | None = None
    ) -> FieldsResponse:
        """Return which metadata the rows of a collection have: keys, types and common values.

        Raises:
            NotFound: there is no such collection.
        """
        query = {"where": None if where is None else json.dumps(where), "values": values}
        path = f"/v1/collections/{collection}/fields"
        return await self._connection.call(FieldsResponse, "GET", path, query=query)


class AsyncJobs:
    """What is written into collections in the background."""

    def __init__(self, connection: Connection) -> None:
        """Use a connection."""
        self._connection = connection

    async def create(
        self,
        collection: str,
        *,
        texts: Sequence[str | Mapping[str, Any]] | None = None,
        document: Mapping[str, Any] | None = None,
        file_id: str | None = None,
        url: str | None = None,
        reembed: bool = False,
        model: str | None = None,
        into: str | None = None,
        capacity: int | None = None,
        priority: int | None = None,
        metadata: Mapping[str, str] | None = None,
        idempotency_key: str | None = None,
    ) -> JobObject:
        """Write texts, a document or a stored file into a collection, or embed it again; exactly one of these is given.

        Args:
            collection: the collection to write to, created if absent.
            texts: texts, or mappings with `text`, `id`, `title`, `kind` and `metadata`.
            document: one such mapping.
            file_id: a file of `/v1/files`.
            url: the address of such a file.
            reembed: embed the whole collection again.
            model: with `reembed`, the served model to embed it with.
            into: the new collection for the vectors of that model.
            capacity: the most tokens of a chunk.
            priority: from 0 to 100; higher is sooner, and nothing waits for ever.
            metadata: notes for yourself, which come back with the job.
            idempotency_key: repeated within a day, it makes no other job.

        Raises:
            Rejected: an argument is invalid, or not exactly one thing is asked for.
            Exhausted: the key's quota of the day is used up.
        """
        body = {
            "collection": collection,
            "texts": texts,
            "document": document,
            "file_id": file_id,
            "url": url,
            "reembed": reembed or None,
            "model": model,
            "into": into,
            "chunking": None if capacity is None else {"capacity": capacity},
            "priority": priority,
            "metadata": metadata,
            "idempotency_key": idempotency_key,
        }
        return await self._connection.call(JobObject, "POST", "/v1/jobs", body=body)

    async def get(self, job: str) -> JobObject:
        """Return a job.

        Raises:
            NotFound: this key has no such job.
        """
        return await self._connection.call(JobObject, "GET", f"/v1/jobs/{job}")

    async def list(
        self,
        *,
        status: str | None = None,
        collection: str | None = None,
        after: str | None = None,
        limit: int | None = None,
    ) -> JobList:
        """Return a page of the key's jobs, newest first; `after` is the id of the last job of the page before."""
        query = {"status": status, "collection": collection, "after": after, "limit": limit}
        return await self._connection.call(JobList, "GET", "/v1/jobs", query=query)

    async def cancel(self, job: str, *, rollback: bool = False) -> JobObject:
        """End a job: whole documents that are finished stay, or with `rollback` nothing of it."""
        body = {"rollback": rollback}
        return await self._connection.call(JobObject, "POST", f"/v1/jobs/{job}/cancel", body=body)

    async def retry(self, job: str) -> JobObject:
        """Start a job that failed or was cancelled again."""
        return await self._connection.call(JobObject, "POST", f"/v1/jobs/{job}/retry")

    async def events(self, job: str, *, after: int = 0) -> AsyncGenerator[JobEvent, None]:
        """Iterate over the events of a job until it has ended: each once and in order, also across lost connections.

        `after` is the id of the last event that is known.

        Raises:
            NotFound: this key has no such job.
            Transient: the server could not be reached six times in a row.
        """
        failed = 0
        while True:
            try:
                async with self._connection.events(f"/v1/jobs/{job}/events", after=after) as stream:
                    if stream is None:
                        return
                    async for data in stream:
                        event = JobEvent.model_validate_json(data)
                        if event.id > after:
                            after, failed = event.id, 0
                            yield event
            except Transient:
                failed += 1
                if failed == ATTEMPTS:
                    raise
            await asyncio.sleep(AGAIN[failed])

    async def wait(self, job: str) -> JobObject:
        """Wait until a job has ended, and return it; bound the time with `asyncio.timeout`.

        Raises:
            NotFound, Transient: as `events`.
        """
        found = await self.get(job)
        while found.status not in FINAL:
            async for _ in self.events(job):
                pass
            found = await self.get(job)
        return found
