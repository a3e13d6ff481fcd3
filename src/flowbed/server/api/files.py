"""/v1/files: input and result files of the Batch API, compatible with OpenAI's API."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from fastapi import APIRouter, Request, Response
from starlette.responses import StreamingResponse

from flowbed.errors import Rejected
from flowbed.server.api.openapi import FAILURES, form_of, query_of
from flowbed.server.api.schemas.batches import FileDeleted, FileForm, FileList, FileObject, FilesQuery
from flowbed.server.api.schemas.shapes import model_of
from flowbed.server.http.request_context import context_of
from flowbed.server.http.responses import json
from flowbed.server.http.uploads import Upload
from flowbed.services.files import NAME_MOST, FileDescription

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from flowbed.ledger import FileRow
    from flowbed.services.service import Service


def routes(service: Service) -> APIRouter:
    """Create the routes over `service`."""
    router = APIRouter(prefix="/v1/files", tags=["files"])
    files = service.files

    @router.post("", openapi_extra=form_of(FileForm), responses={200: {"model": FileObject}, **FAILURES})
    async def create_file(request: Request) -> Response:
        """Store a file; one for the Batch API is kept for 30 days by default."""
        context = context_of(request.scope)
        await service.quotas.admit(context.caller)
        upload = Upload(context.headers.get(b"content-type", b""), _pieces(request))
        await upload.begin()
        if upload.has_file and "purpose" in upload.fields:
            described(upload)  # reject before the upload
        caller = context.caller
        tier = service.serving.tiers.get(caller.tier) if caller.key else None
        row = await files.create(
            caller.key or "",
            upload.file(),
            described=lambda: described(upload),
            most=None if tier is None else tier.stored,
        )
        return json(shown(row))

    @router.get("", openapi_extra=query_of(FilesQuery), responses={200: {"model": FileList}, **FAILURES})
    async def list_files(request: Request) -> Response:
        """List the files of the key."""
        query = model_of(FilesQuery, dict(request.query_params))
        found, more = await files.list(
            _owner(request),
            purpose=query.purpose,
            after=query.after,
            limit=query.limit,
            descending=query.order == "desc",
        )
        return json(page([shown(row) for row in found], more=more))

    @router.get("/{file}", responses={200: {"model": FileObject}, **FAILURES})
    async def retrieve_file(request: Request, file: str) -> Response:
        """Return a file's description."""
        return json(shown(await files.get(_owner(request), file)))

    @router.delete("/{file}", responses={200: {"model": FileDeleted}, **FAILURES})
    async def delete_file(request: Request, file: str) -> Response:
        """Delete a file and its bytes."""
        await files.delete(_owner(request), file)
        return json({"id": file, "object": "file", "deleted": True})

    @router.get(
        "/{file}/content",
        responses={200: {"content": {"application/octet-stream": {}}}, **FAILURES},
        response_class=StreamingResponse,
    )
    async def retrieve_content(request: Request, file: str) -> Response:
        """Return the bytes of a file."""
        row = await files.get(_owner(request), file)
        pieces = files.content(row)
        first = await anext(pieces, b"")  # a missing file is reported before the response starts
        return StreamingResponse(
            _all(first, pieces),
            media_type="application/octet-stream",
            headers={"content-length": str(row.bytes)},
        )

    return router


def described(upload: Upload) -> FileDescription:
    """Read the description of a file.

    Raises:
        Rejected: a field is missing, unknown or invalid.
    """
    if not upload.has_file:
        raise Rejected("'file' is a required property", param="file")
    form = model_of(FileForm, {**upload.fields, "file": ""})
    if (form.anchor is None) != (form.seconds is None):
        raise Rejected("'expires_after' needs both anchor (created_at) and seconds", param="expires_after")
    name = upload.filename.strip()[-NAME_MOST:]
    return FileDescription(purpose=form.purpose, filename=name or "file", seconds=form.seconds)


def page(shown: list[dict[str, Any]], *, more: bool) -> dict[str, Any]:
    """Write one page of a list."""
    return {
        "object": "list",
        "data": shown,
        "first_id": shown[0]["id"] if shown else None,
        "last_id": shown[-1]["id"] if shown else None,
        "has_more": more,
    }


def shown(row: FileRow) -> dict[str, Any]:
    """Describe a file as OpenAI does; a stored file is ready to use."""
    return {
        "id": row.id,
        "object": "file",
        "bytes": row.bytes,
        "created_at": row.created // 1_000_000,
        "expires_at": row.expires // 1_000_000 if row.expires else None,
        "filename": row.filename,
        "purpose": row.purpose,
        "status": "processed",
        "status_details": None,
    }


def _owner(request: Request) -> str:
    return context_of(request.scope).caller.key or ""


async def _pieces(request: Request) -> AsyncIterator[bytes]:
    async for piece in request.stream():
        if piece:
            yield piece


async def _all(first: bytes, rest: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    yield first
    async for piece in rest:
        yield piece
