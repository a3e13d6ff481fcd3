"""/v1/collections/{collection}/documents and .../records: what callers write into collections themselves."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import orjson
from fastapi import APIRouter, Request, Response

from flowbed.errors import NotFound, Rejected
from flowbed.records.names import is_name, is_store, rule
from flowbed.records.precomputed import PrecomputedRows
from flowbed.server.api.files import page
from flowbed.server.api.jobs import shown as shown_job
from flowbed.server.api.openapi import FAILURES, body_of, query_of
from flowbed.server.api.schemas import documents as schemas
from flowbed.server.api.schemas.jobs import JobObject
from flowbed.server.api.schemas.search import SearchResponse
from flowbed.server.api.schemas.shapes import model_of
from flowbed.server.api.search import REPEATED, read
from flowbed.server.http.request_context import context_of
from flowbed.server.http.responses import ACCEPTED, json
from flowbed.services.jobs.requests import IndexRequest, JobDocument, JobFile

if TYPE_CHECKING:
    from collections.abc import Sequence

    from flowbed.ledger.index_jobs import IndexJobRow
    from flowbed.records import SearchResults
    from flowbed.records.serving import Caller
    from flowbed.server.api.schemas.jobs import Chunking
    from flowbed.services.documents.service import DocumentView
    from flowbed.services.service import Service


def routes(service: Service) -> APIRouter:
    """Create the routes over `service`."""
    router = APIRouter(prefix="/v1/collections/{collection}", tags=["documents"])
    _searches(router, service)
    _several(router, service)
    _one(router, service)
    _records(router, service)
    return router


def _one(router: APIRouter, service: Service) -> None:
    documents = service.documents

    @router.put(
        "/documents/{document:path}",
        openapi_extra=body_of(schemas.DocumentRequest),
        responses={
            200: {"model": schemas.DocumentObject},
            ACCEPTED: {"model": JobObject},
            **FAILURES,
        },
    )
    async def put_document(request: Request, collection: str, document: str) -> Response:
        """Write a document: a small text at once, a large one or a file by a job."""
        caller = await _admit(service, request)
        body = await read(request, schemas.DocumentRequest, most=service.serving.body_bytes)
        asked = _asked(named(collection), [(document, body)], body.chunking)
        done = await documents.put(caller, asked)
        return _job(done.job) if done.job is not None else json(shown(done.documents[0]))

    @router.get("/documents/{document:path}", responses={200: {"model": schemas.DocumentObject}, **FAILURES})
    async def retrieve_document(request: Request, collection: str, document: str) -> Response:
        """Return a document that was written through this API."""
        await service.browse.require(_caller(request))
        return json(shown(await documents.get(named(collection), document)))

    @router.delete(
        "/documents/{document:path}", responses={200: {"model": schemas.DocumentDeleted}, **FAILURES}
    )
    async def delete_document(request: Request, collection: str, document: str) -> Response:
        """Delete a document; no search finds it afterwards."""
        deleted = await documents.delete(_caller(request), named(collection), [document])
        if not deleted:
            raise NotFound(f"Collection {collection} has no document {document[:80]!r}.", param="document")
        return json({"id": document, "object": "document.deleted", "deleted": True})


def _several(router: APIRouter, service: Service) -> None:
    documents = service.documents

    @router.post(
        "/documents",
        openapi_extra=body_of(schemas.DocumentsRequest),
        responses={200: {"model": schemas.DocumentList}, ACCEPTED: {"model": JobObject}, **FAILURES},
    )
    async def put_documents(request: Request, collection: str) -> Response:
        """Write up to 1,000 documents: small ones at once, otherwise all by one job; each fails for itself."""
        caller = await _admit(service, request)
        body = await read(request, schemas.DocumentsRequest, most=service.serving.body_bytes)
        asked = _asked(named(collection), [(each.id, each) for each in body.documents], body.chunking)
        done = await documents.put(caller, asked)
        if done.job is not None:
            return _job(done.job)
        return json(page([shown(each) for each in done.documents], more=False))

    @router.get(
        "/documents",
        openapi_extra=query_of(schemas.DocumentsQuery),
        responses={200: {"model": schemas.DocumentList}, **FAILURES},
    )
    async def list_documents(request: Request, collection: str) -> Response:
        """List documents that were written through this API, in the order of their ids."""
        await service.browse.require(_caller(request))
        query = model_of(schemas.DocumentsQuery, dict(request.query_params))
        found, more = await documents.list(
            named(collection), where=_where(query.where), after=query.after, limit=query.limit
        )
        return json(page([shown(each) for each in found], more=more))

    @router.post(
        "/documents/delete",
        openapi_extra=body_of(schemas.DeleteRequest),
        responses={200: {"model": schemas.DocumentsDeleted}, **FAILURES},
    )
    async def delete_documents(request: Request, collection: str) -> Response:
        """Delete documents by their ids, or by a filter; those that are not there are left out of the answer."""
        caller = await _admit(service, request)
        body = await read(request, schemas.DeleteRequest)
        if (body.ids is None) == (body.where is None):
            raise Rejected("Send either 'ids' or 'where'.", param="ids")
        if body.ids is not None:
            deleted = await documents.delete(caller, named(collection), body.ids)
        else:
            deleted = await documents.delete_where(caller, named(collection), body.where or {})
        return json({"object": "documents.deleted", "deleted": list(deleted)})

    @router.post(
        "/reembed",
        status_code=ACCEPTED,
        openapi_extra=body_of(schemas.ReembedRequest, required=False),
        responses={ACCEPTED: {"model": JobObject}, **FAILURES},
    )
    async def reembed_collection(request: Request, collection: str) -> Response:
        """Embed all rows of a collection again, by a job; the old vectors are found until the new ones are there.

        With a model, they are embedded with that one into another collection.
        """
        caller = await _admit(service, request)
        body = await read(request, schemas.ReembedRequest, optional=True)
        asked = IndexRequest(
            collection=named(collection), reembed=True, model=body.model or "", into=body.into or ""
        )
        return _job((await service.index_jobs.create(caller, asked))[0])


def _searches(router: APIRouter, service: Service) -> None:
    @router.post(
        "/search",
        openapi_extra=body_of(schemas.FindRequest),
        responses={200: {"model": SearchResponse}, **FAILURES},
    )
    async def search_collection(request: Request, collection: str) -> Response:
        """Find the nearest chunks, or documents, of the collection."""
        body = await read(request, schemas.FindRequest)
        found = await service.search.find(
            _caller(request),
            body.query,
            collection=named(collection),
            where=body.where,
            limit=body.limit,
            unit=body.unit,
        )
        return _found(found)

    @router.post(
        "/documents/{document:path}/similar",
        openapi_extra=body_of(schemas.NearRequest, required=False),
        responses={200: {"model": SearchResponse}, **FAILURES},
    )
    async def similar_documents(request: Request, collection: str, document: str) -> Response:
        """Find the documents nearest to a document, by its first chunk; without a call to the model."""
        body = await read(request, schemas.NearRequest, nulls=True, optional=True)
        found = await service.search.find(
            _caller(request),
            "",
            like=await service.documents.first_chunk(named(collection), document),
            collection=named(collection),
            where=body.where,
            limit=body.limit,
            unit="document",
        )
        return _found(found)


def _records(router: APIRouter, service: Service) -> None:
    records = service.records

    @router.post(
        "/records",
        openapi_extra=body_of(schemas.RecordsRequest),
        responses={200: {"model": schemas.RecordsWritten}, **FAILURES},
    )
    async def put_records(request: Request, collection: str) -> Response:
        """Write up to 1,000 rows that come with their vectors; all of them or none."""
        caller = await _admit(service, request)
        body = await read(request, schemas.RecordsRequest, most=service.serving.body_bytes)
        rows = PrecomputedRows(
            ids=[each.id for each in body.records],
            vectors=[each.vector for each in body.records],
            texts=[each.text for each in body.records],
            metadata=[each.metadata for each in body.records],
        )
        done = await records.put(caller, named(collection), rows)
        return json({"written": done.written, "unchanged": done.unchanged, "version": done.version})

    @router.get("/records/{record:path}", responses={200: {"model": schemas.RecordObject}, **FAILURES})
    async def retrieve_record(request: Request, collection: str, record: str) -> Response:
        """Return a row of the collection with its vector."""
        await service.browse.require(_caller(request))
        found = await records.get(named(collection), record)
        return json(
            {
                "id": found.id,
                "object": "record",
                "text": found.text,
                "metadata": found.metadata,
                "vector": found.vector,
            }
        )

    @router.delete("/records/{record:path}", responses={200: {"model": schemas.RecordDeleted}, **FAILURES})
    async def delete_record(request: Request, collection: str, record: str) -> Response:
        """Delete a row that came with its vector."""
        rows = PrecomputedRows(deleted=[record])
        done = await records.put(_caller(request), named(collection), rows)
        if not done.deleted:
            raise NotFound(f"Collection {collection} has no record {record[:80]!r}.", param="record")
        return json({"id": record, "object": "record.deleted", "deleted": True})


def named(collection: str) -> str:
    """Return the name of a collection that callers may write to.

    Raises:
        NotFound: it cannot be one, or is a vector store.
    """
    if not is_name(collection):
        reason = f"{collection[:REPEATED]!r} cannot be the name of a collection: {rule()}"
        raise NotFound(reason, param="collection")
    if is_store(collection):
        raise NotFound(f"there is no collection {collection!r}", param="collection")
    return collection


def shown(view: DocumentView) -> dict[str, Any]:
    """Describe a document."""
    return {
        "id": view.id,
        "object": "document",
        "collection": view.collection,
        "status": view.status,
        "chunks": view.chunks,
        "tokens": view.tokens,
        "metadata": view.metadata,
        "error": {"message": view.reason} if view.reason else None,
    }


def _asked(
    collection: str,
    documents: Sequence[tuple[str, schemas.DocumentFields]],
    chunking: Chunking | None,
) -> IndexRequest:
    """Turn documents into a request to write them.

    Raises:
        Rejected: one has neither a text nor a file, or both.
    """
    for name, each in documents:
        if (each.text is None) == (each.file_id is None):
            raise Rejected(f"Document {name[:80]!r} needs either 'text' or 'file_id'.", param="text")
    return IndexRequest(
        collection=collection,
        documents=[
            JobDocument(id=name, text=each.text, kind=each.kind, title=each.title, metadata=each.metadata)
            for name, each in documents
            if each.text is not None
        ],
        files=[
            JobFile(file=each.file_id, id=name, metadata=each.metadata)
            for name, each in documents
            if each.file_id is not None
        ],
        capacity=None if chunking is None else chunking.capacity,
    )


def _job(row: IndexJobRow) -> Response:
    headers = [(b"location", f"/v1/jobs/{row.id}".encode())]
    return json(shown_job(row), status=ACCEPTED, headers=headers)


def _found(found: SearchResults) -> Response:
    said = {"hits": found.hits, "versions": dict(found.versions)}
    return json({**said, "warnings": found.warnings, "next": found.next})


def _where(text: str | None) -> Any:
    try:
        return None if text is None else orjson.loads(text)
    except orjson.JSONDecodeError as error:
        raise Rejected(f"where is not JSON: {error}", param="where", code="invalid_value") from error


async def _admit(service: Service, request: Request) -> Caller:
    caller = _caller(request)
    await service.quotas.admit(caller)
    return caller


def _caller(request: Request) -> Caller:
    return context_of(request.scope).caller
