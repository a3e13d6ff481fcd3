"""Answers of Chroma's API: columns of rows, as JSON that is written once."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import orjson
from starlette.responses import StreamingResponse

from flowbed.index.search.rows import BLOCK
from flowbed.server.http.responses import JSON, RawResponse
from flowbed.services.chroma.rows import metadata_of, texts_of

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

    from fastapi import Response

    from flowbed.index.search.rows import Selection
    from flowbed.services.chroma.rows import Neighbours

OPTIONS = orjson.OPT_SERIALIZE_NUMPY
COLUMNS = ("embeddings", "documents", "uris", "metadatas")


async def write_rows(selection: Selection | None, include: Sequence[str]) -> Response:
    """Answer a `get`: at once where the rows are few, otherwise column by column as they are read."""
    parts = _rows(selection, include)
    if selection is None or len(selection) <= BLOCK:
        return RawResponse(b"".join([part async for part in parts]), [JSON])
    return StreamingResponse(parts, media_type="application/json")


async def _rows(selection: Selection | None, include: Sequence[str]) -> AsyncIterator[bytes]:
    yield b'{"ids":'
    async for part in _column(selection, "ids"):
        yield part
    for name in COLUMNS:
        yield b',"%b":' % name.encode()
        if name not in include:
            yield b"null"
            continue
        async for part in _column(selection, name):
            yield part
    yield b',"include":%b}' % orjson.dumps(list(include))


async def _column(selection: Selection | None, name: str) -> AsyncIterator[bytes]:
    """Write a column as a JSON list, a block of rows at a time."""
    opening = b"["
    for first in range(0, 0 if selection is None else len(selection), BLOCK):
        assert selection is not None  # noqa: S101 - without one there is no block
        values = orjson.dumps(await _values(selection, name, first), option=OPTIONS)
        yield opening + values[1:-1]
        opening = b","
    yield b"[]" if opening == b"[" else b"]"


async def _values(selection: Selection, name: str, first: int) -> Any:
    if name == "ids":
        return await selection.strings("id", first=first)
    if name == "documents":
        return texts_of(await selection.strings("document", first=first))
    if name == "metadatas":
        return _objects(metadata_of(await selection.strings("metadata", first=first)))
    if name == "embeddings":
        return await selection.vectors(first=first)
    return [None] * min(BLOCK, len(selection) - first)  # no row has an address


def write_neighbours(found: Sequence[Neighbours], include: Sequence[str]) -> Response:
    """Answer a `query`: each field is a list for each vector."""
    answer: dict[str, Any] = dict.fromkeys(("embeddings", "documents", "uris", "metadatas", "distances"))
    answer["ids"] = [each.ids for each in found]
    if "embeddings" in include:
        answer["embeddings"] = [each.vectors for each in found]
    if "documents" in include:
        answer["documents"] = [each.documents for each in found]
    if "metadatas" in include:
        answer["metadatas"] = [_objects(each.metadata) for each in found]
    if "distances" in include:
        answer["distances"] = [each.distances for each in found]
    if "uris" in include:
        answer["uris"] = [[None] * len(each.ids) for each in found]
    answer["include"] = include
    return RawResponse(orjson.dumps(answer, option=OPTIONS), [JSON])


def _objects(metadata: Sequence[str | None]) -> list[Any]:
    """Take metadata into an answer as the JSON that it is."""
    return [None if each is None else orjson.Fragment(each) for each in metadata]
