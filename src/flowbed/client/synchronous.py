"""The client for synchronous code: each call of the asynchronous one, run to its end on an event loop in a thread."""

from __future__ import annotations

import asyncio
import threading
from typing import TYPE_CHECKING, Any, Self, TypeVar

from flowbed.client.asynchronous import AsyncClient

if TYPE_CHECKING:
    from collections.abc import Coroutine, Iterator, Mapping, Sequence
    from typing import Literal

    from flowbed.client.asynchronous import AsyncJobs, Mode
    from flowbed.client.documents import AsyncDocuments
    from flowbed.server.api.schemas.documents import (
        DocumentDeleted,
        DocumentList,
        DocumentObject,
        DocumentsDeleted,
    )
    from flowbed.server.api.schemas.jobs import JobEvent, JobList, JobObject
    from flowbed.server.api.schemas.search import FieldsResponse, SearchResponse

Answer = TypeVar("Answer")


class Client:
    """A server of Flowbed. Threads may share it."""

    def __init__(self, url: str = "http://127.0.0.1:8080", *, key: str = "") -> None:
        """Name the server and an API key, if it has keys; the first request connects.

        Raises:
            Misconfigured: the address is none of HTTP.
        """
        self._client = AsyncClient(url, key=key)
        self._loop = _Loop()
        self.jobs = Jobs(self._client.jobs, self._loop)
        self.documents = Documents(self._client.documents, self._loop)

    def __enter__(self) -> Self:
        """Return the client; leaving the block closes it."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close the connections and the thread."""
        self.close()

    def close(self) -> None:
        """Close the connections and the thread. Closing twice is allowed."""
        if self._loop.running:
            self._loop.wait(self._client.close())
            self._loop.stop()

    def search(
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
        """Find the rows nearest to a text, a vector, or the row `like`; as `AsyncClient.search`."""
        return self._loop.wait(
            self._client.search(
                query,
                like=like,
                collection=collection,
                where=where,
                limit=limit,
                mode=mode,
                text=text,
                unit=unit,
                order=order,
                since=since,
                before=before,
                rerank=rerank,
                at=at,
                cursor=cursor,
            )
        )

    def fields(
        self, collection: str, *, where: Mapping[str, Any] | None = None, values: int | None = None
    ) -> FieldsResponse:
        """Return which metadata the rows of a collection have; as `AsyncClient.fields`."""
        return self._loop.wait(self._client.fields(collection, where=where, values=values))


class Jobs:
    """What is written into collections in the background."""

    def __init__(self, jobs: AsyncJobs, loop: _Loop) -> None:
        """Run the calls of `jobs` on `loop`."""
        self._jobs, self._loop = jobs, loop

    def create(
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
        """Write texts, a document or a stored file into a collection; as `AsyncJobs.create`."""
        return self._loop.wait(
            self._jobs.create(
                collection,
                texts=texts,
                document=document,
                file_id=file_id,
                url=url,
                reembed=reembed,
                model=model,
                into=into,
                capacity=capacity,
                priority=priority,
                metadata=metadata,
                idempotency_key=idempotency_key,
            )
        )

    def get(self, job: str) -> JobObject:
        """Return a job; as `AsyncJobs.get`."""
        return self._loop.wait(self._jobs.get(job))

    def list(
        self,
        *,
        status: str | None = None,
        collection: str | None = None,
        after: str | None = None,
        limit: int | None = None,
    ) -> JobList:
        """Return a page of the key's jobs; as `AsyncJobs.list`."""
        return self._loop.wait(
            self._jobs.list(status=status, collection=collection, after=after, limit=limit)
        )

    def cancel(self, job: str, *, rollback: bool = False) -> JobObject:
        """End a job; as `AsyncJobs.cancel`."""
        return self._loop.wait(self._jobs.cancel(job, rollback=rollback))

    def retry(self, job: str) -> JobObject:
        """Start a job that failed or was cancelled again."""
        return self._loop.wait(self._jobs.retry(job))

    def events(self, job: str, *, after: int = 0) -> Iterator[JobEvent]:
        """Iterate over the events of a job until it has ended; as `AsyncJobs.events`."""
        events = self._jobs.events(job, after=after)

        async def following() -> JobEvent | None:
            return await anext(events, None)

        try:
            while (event := self._loop.wait(following())) is not None:
                yield event
        finally:
            self._loop.wait(events.aclose())

    def wait(self, job: str, *, timeout: float | None = None) -> JobObject:
        """Wait until a job has ended, and return it.

        Raises:
            TimeoutError: it has not ended within `timeout` seconds.
            NotFound, Transient: as `AsyncJobs.events`.
        """

        async def within() -> JobObject:
            async with asyncio.timeout(timeout):
                return await self._jobs.wait(job)

        return self._loop.wait(within())


class Documents:
    """The documents of collections."""

    def __init__(self, documents: AsyncDocuments, loop: _Loop) -> None:
        """Run the calls of `documents` on `loop`."""
        self._documents, self._loop = documents, loop

    def put(
        self,
        collection: str,
        document: str,
        *,
        text: str | None = None,
        file_id: str | None = None,
        title: str | None = None,
        kind: str | None = None,
        metadata: Mapping[str, Any] | None = None,
    ) -> DocumentObject:
        """Write a document under its id, and return it once it can be found; as `AsyncDocuments.put`."""
        return self._loop.wait(
            self._documents.put(
                collection,
                document,
                text=text,
                file_id=file_id,
                title=title,
                kind=kind,
                metadata=metadata,
            )
        )

    def put_many(self, collection: str, documents: Sequence[Mapping[str, Any]]) -> DocumentList | JobObject:
        """Write up to 1,000 documents; as `AsyncDocuments.put_many`."""
        return self._loop.wait(self._documents.put_many(collection, documents))

    def get(self, collection: str, document: str) -> DocumentObject:
        """Return a document; as `AsyncDocuments.get`."""
        return self._loop.wait(self._documents.get(collection, document))

    def list(
        self,
        collection: str,
        *,
        where: Mapping[str, Any] | None = None,
        after: str | None = None,
        limit: int | None = None,
    ) -> DocumentList:
        """Return a page of documents in the order of their ids; as `AsyncDocuments.list`."""
        return self._loop.wait(self._documents.list(collection, where=where, after=after, limit=limit))

    def delete(self, collection: str, document: str) -> DocumentDeleted:
        """Delete a document; as `AsyncDocuments.delete`."""
        return self._loop.wait(self._documents.delete(collection, document))

    def delete_many(
        self, collection: str, *, ids: Sequence[str] | None = None, where: Mapping[str, Any] | None = None
    ) -> DocumentsDeleted:
        """Delete documents by their ids or by a filter; as `AsyncDocuments.delete_many`."""
        return self._loop.wait(self._documents.delete_many(collection, ids=ids, where=where))


class _Loop:
    """An event loop in a thread."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="flowbed-client", daemon=True)
        self._thread.start()

    @property
    def running(self) -> bool:
        return not self._loop.is_closed()

    def wait(self, work: Coroutine[Any, Any, Answer]) -> Answer:
        future = asyncio.run_coroutine_threadsafe(work, self._loop)
        try:
            return future.result()
        except BaseException:
            future.cancel()
            raise

    def stop(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()
