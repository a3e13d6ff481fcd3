"""Batch files of other programs: each is a document, and each of its `chunks` is a chunk."""

from __future__ import annotations

import codecs
from typing import TYPE_CHECKING, Any, NamedTuple

import orjson

from flowbed.errors import NotFound, Rejected
from flowbed.records import Document, Entry, Page, Problem
from flowbed.records.values import require_number, shown
from flowbed.storage.compression import plain

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Sequence

    from flowbed.storage import Store

    Item = tuple[int, str, dict[str, Any], str]


class ExternalFile(NamedTuple):
    """A batch file: its key, the id of its document, and what changes whenever the file may have."""

    key: str
    document: str
    etag: str


class ExternalBatches:
    """`Source` of the batch files named: it lists no others, so none is ever taken as deleted."""

    location = "batch files of other programs"

    def __init__(
        self, store: Store, files: Sequence[ExternalFile], *, is_collection: Callable[[str], bool]
    ) -> None:
        """Read `files` from the store; `is_collection` says whether a collection may have a name."""
        self._store, self._files, self._is_collection = store, files, is_collection

    async def fetch(self, cursor: str) -> AsyncIterator[Page]:  # noqa: ARG002 - the files are named
        """List the files, one a page: each is read whole, and held in memory until it is chunked."""
        for file in self._files:
            try:
                items, problems = read_items((await self._store.get(file.key)).body, self._is_collection)
            except NotFound:
                yield Page(  # deleted meanwhile: what was indexed of it stays
                    problems=[
                        Problem(
                            subject=file.key, reason="it is not there", skipped=True, document=file.document
                        )
                    ]
                )
                continue
            except Rejected as error:
                yield Page(problems=[Problem(subject=file.key, reason=str(error), document=file.document)])
                continue
            document = Document(id=file.document, kind="prepared", text=orjson.dumps(items).decode())
            yield Page(
                entries=[_entry(file, document)],
                problems=[
                    Problem(subject=f"{file.key}, chunk {number}", reason=reason, document=file.document)
                    for number, reason in problems
                ],
            )


def _entry(file: ExternalFile, document: Document) -> Entry:
    return Entry(document=file.document, etag=file.etag, read=lambda: document)


def read_items(body: bytes, is_collection: Callable[[str], bool]) -> tuple[list[Item], list[tuple[int, str]]]:
    """Read the chunks of a batch file, and the number and reason of each that cannot be embedded.

    Raises:
        Rejected: it is no batch file.
    """
    try:
        said = orjson.loads(plain(body).removeprefix(codecs.BOM_UTF8))
    except ValueError as error:
        raise Rejected(f"it is not JSON ({error}): write the file again, whole") from error
    chunks = said.get("chunks") if isinstance(said, dict) else said
    if not isinstance(chunks, list):
        raise Rejected('it has no list of chunks: write {"chunks": [{"text": ..., "metadata": {...}}, ...]}')
    items, problems = [], []
    for number, each in enumerate(chunks):
        if each is None:
            continue  # it was forgotten; the others keep their places
        try:
            items.append(_item(number, each, is_collection))
        except Rejected as error:
            problems.append((number, str(error)))
    return items, problems


def _item(number: int, chunk: Any, is_collection: Callable[[str], bool]) -> Item:  # any JSON value
    if not isinstance(chunk, dict):
        raise Rejected(f"it is {shown(chunk)}, not an object with a text")
    text, metadata, collection = chunk.get("text"), chunk.get("metadata") or {}, chunk.get("collection") or ""
    if not isinstance(text, str) or not text.strip():
        raise Rejected("it has no text")
    if not isinstance(metadata, dict):
        raise Rejected(f"its metadata is {shown(metadata)}, not an object")
    if not isinstance(collection, str) or (collection and not is_collection(collection)):
        raise Rejected(f"{shown(collection)} cannot be the name of a collection")
    kept = {name: value for name, value in metadata.items() if value is not None}
    for name, value in kept.items():
        if not isinstance(value, str | bool):
            require_number(value, f"metadata {shown(name)}")
    return number, text, kept, collection
