"""/v1/files: files for the Batch API, and those that it makes, as OpenAI's API has them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from fastapi import APIRouter, Request, Response
from starlette.responses import StreamingResponse

from flowbed.errors import Rejected
from flowbed.server.api.batch_schemas import Deleted, File, FileForm, FileList, FilesQuery
from flowbed.server.api.openapi import FAILURES, form_of, query_of
from flowbed.server.api.schemas import model_of
from flowbed.server.http.request_context import exchange_of
from flowbed.server.http.responses import json
from flowbed.server.http.uploads import Upload
from flowbed.services.files import NAME_MOST, Described

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from flowbed.ledger import FileRow
    from flowbed.services.service import Service


def routes(service: Service) -> APIRouter:
    """Make the routes over `service`."""
    router = APIRouter(prefix="/v1/files", tags=["files"])
    files = service.files

    @router.post("", openapi_extra=form_of(FileForm), responses={200: {"model": File}, **FAILURES})
    async def create_file(request: Request) -> Response:
        """Keep a file; those for the Batch API are kept for 30 days where nothing else is said."""
        exchange = exchange_of(request.scope)
        upload = Upload(exchange.headers.get(b"content-type", b""), _pieces(request))
        await upload.begin()
        if upload.has_file and "purpose" in upload.fields:
            described(upload)  # what cannot be used is refused before it is here
        caller = exchange.caller
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
        asked = model_of(FilesQuery, dict(request.query_params))
        found, more = await files.list(
            _owner(request),
            purpose=asked.purpose,
            after=asked.after,
            limit=asked.limit,
            descending=asked.order == "desc",
        )
        return json(page([shown(row) for row in found], more=more))

    @router.get("/{file}", responses={200: {"model": File}, **FAILURES})
    async def retrieve_file(request: Request, file: str) -> Response:
        """Describe a file."""
        return json(shown(await files.get(_owner(request), file)))

    @router.delete("/{file}", responses={200: {"model": Deleted}, **FAILURES})
    async def delete_file(request: Request, file: str) -> Response:
        """Forget a file, and remove its bytes."""
        await files.delete(_owner(request), file)
        return json({"id": file, "object": "file", "deleted": True})

    @router.get(
        "/{file}/content",
        responses={200: {"content": {"application/octet-stream": {}}}, **FAILURES},
        response_class=StreamingResponse,
    )
    async def retrieve_content(request: Request, file: str) -> Response:
        """Give the bytes of a file."""
        row = await files.get(_owner(request), file)
        pieces = files.content(row)
        first = await anext(pieces, b"")  # what is not there is told before the answer begins
        return StreamingResponse(
            _all(first, pieces),
            media_type="application/octet-stream",
            headers={"content-length": str(row.bytes)},
        )

    return router


def described(upload: Upload) -> Described:
    """Read what is said of a file.

    Raises:
        Rejected: something is missing, unknown or wrong.
    """
    if not upload.has_file:
        raise Rejected("'file' is a required property", param="file")
    said = model_of(FileForm, {**upload.fields, "file": ""})
    if (said.anchor is None) != (said.seconds is None):
        raise Rejected(
            "'expires_after' needs both: anchor, which is created_at, and seconds", param="expires_after"
        )
    name = upload.filename.strip()[-NAME_MOST:]
    return Described(purpose=said.purpose, filename=name or "file", seconds=said.seconds)


def page(shown: list[dict[str, Any]], *, more: bool) -> dict[str, Any]:
    """Write a page of a list."""
    return {
        "object": "list",
        "data": shown,
        "first_id": shown[0]["id"] if shown else None,
        "last_id": shown[-1]["id"] if shown else None,
        "has_more": more,
    }


def shown(row: FileRow) -> dict[str, Any]:
    """Describe a file as OpenAI does; one that is here can be used at once."""
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
    return exchange_of(request.scope).caller.key or ""


async def _pieces(request: Request) -> AsyncIterator[bytes]:
    async for piece in request.stream():
        if piece:
            yield piece


async def _all(first: bytes, rest: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    yield first
    async for piece in rest:
        yield piece
