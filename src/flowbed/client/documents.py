"""Documents that a program writes into collections itself, over HTTP."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from flowbed.client.connection import ACCEPTED
from flowbed.errors import Rejected
from flowbed.server.api.schemas.documents import (
    DocumentDeleted,
    DocumentList,
    DocumentObject,
    DocumentsDeleted,
)
from flowbed.server.api.schemas.jobs import JobObject

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from flowbed.client.asynchronous import AsyncJobs
    from flowbed.client.connection import Connection


class AsyncDocuments:
    """The documents of collections. A large one is written by a job, which is waited for."""

    def __init__(self, connection: Connection, jobs: AsyncJobs) -> None:
        """Use a connection, and wait for jobs by `jobs`."""
        self._connection, self._jobs = connection, jobs

    async def put(
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
        """Write a document under its id, and return it once it can be found.

        Args:
            collection: the collection to write to, created if absent.
            document: the id; a document of that id is replaced.
            text: its text.
            file_id: in place of a text, a file of `/v1/files`.
            title: its title, which its chunks begin with.
            kind: `text` or `markdown`: how it is chunked.
            metadata: fields to filter by.

        Raises:
            Rejected: an argument is invalid, or nothing of the document could be stored; the message says why.
        """
        body = {"text": text, "file_id": file_id, "title": title, "kind": kind, "metadata": metadata}
        status, answer = await self._connection.send("PUT", _path(collection, document), body=body)
        if status != ACCEPTED:
            return DocumentObject.model_validate_json(answer)
        job = await self._jobs.wait(JobObject.model_validate_json(answer).id)
        if job.errors or job.error:
            raise Rejected(job.errors[0].message if job.errors else job.error.message if job.error else "")
        return await self.get(collection, document)

    async def put_many(
        self, collection: str, documents: Sequence[Mapping[str, Any]]
    ) -> DocumentList | JobObject:
        """Write up to 1,000 documents, mappings with `id` and the arguments of `put`; each fails for itself.

        Returns:
            The documents, if they were small; otherwise the job that writes them.
        """
        path = f"/v1/collections/{collection}/documents"
        status, answer = await self._connection.send("POST", path, body={"documents": documents})
        shape = JobObject if status == ACCEPTED else DocumentList
        return shape.model_validate_json(answer)

    async def get(self, collection: str, document: str) -> DocumentObject:
        """Return a document.

        Raises:
            NotFound: there is no such document.
        """
        return await self._connection.call(DocumentObject, "GET", _path(collection, document))

    async def list(
        self,
        collection: str,
        *,
        where: Mapping[str, Any] | None = None,
        after: str | None = None,
        limit: int | None = None,
    ) -> DocumentList:
        """Return a page of documents in the order of their ids; `after` is the last id of the page before."""
        query = {"where": None if where is None else json.dumps(where), "after": after, "limit": limit}
        path = f"/v1/collections/{collection}/documents"
        return await self._connection.call(DocumentList, "GET", path, query=query)

    async def delete(self, collection: str, document: str) -> DocumentDeleted:
        """Delete a document; no search finds it afterwards.

        Raises:
            NotFound: there is no such document.
        """
        return await self._connection.call(DocumentDeleted, "DELETE", _path(collection, document))

    async def delete_many(
        self, collection: str, *, ids: Sequence[str] | None = None, where: Mapping[str, Any] | None = None
    ) -> DocumentsDeleted:
        """Delete documents by their ids or by a filter, and return which."""
        path = f"/v1/collections/{collection}/documents/delete"
        return await self._connection.call(DocumentsDeleted, "POST", path, body={"ids": ids, "where": where})


def _path(collection: str, document: str) -> str:
    return f"/v1/collections/{collection}/documents/{quote(document, safe='')}"
