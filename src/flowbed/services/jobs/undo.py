"""What a job replaces is kept until it has ended, so that the end of a job can put it back."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import orjson

from flowbed.errors import Conflict, NotFound
from flowbed.lanes.batch_files import read_chunk_texts
from flowbed.records import Document, Entry, Page
from flowbed.services.jobs.documents import etag_of
from flowbed.services.jobs.requests import FOLDER, id_of

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Collection, Mapping, Sequence

    from flowbed.chunking import Rules
    from flowbed.lanes.contexts import Context
    from flowbed.services.jobs.requests import JobDocument, JobFile
    from flowbed.storage import Store

# Documents whose chunks are read at once.
DOCUMENTS = 500
# Fields that every chunk gets again.
OURS = frozenset({"source", "document"})


def replaced_key(job: str) -> str:
    """Return the key of what a job replaces."""
    return f"{FOLDER}/{job}/replaced.jsonl"


async def keep_replaced(
    job: str, parts: Sequence[JobDocument | JobFile | str], rules: Rules, context: Context
) -> None:
    """Keep the chunks of the documents that a job changes, before it changes any; once, however often it is tried."""
    source, ledger = rules.source, context.ledger
    lines: list[dict[str, Any]] = []
    for start in range(0, len(parts), DOCUMENTS):
        wanted = {id_of(each): mark_of(each, rules) for each in parts[start : start + DOCUMENTS]}
        known = await ledger.documents.etags(source, wanted)
        changed = [name for name in wanted if known.get(name, "") != wanted[name]]
        chunks: dict[str, list[Any]] = {name: [] for name in changed if name in known}
        rows = [row for row in await ledger.chunks.of(source, list(chunks)) if not row.deleted]
        texts, _ = await read_chunk_texts(rows, store=context.store, ledger=ledger)
        for each in texts:
            metadata = {name: value for name, value in each.metadata.items() if name not in OURS}
            item = [each.row.ordinal, each.text, metadata, each.row.collection, each.sent]
            chunks[each.row.document].append(item)
        lines += [{"id": name, "chunks": chunks.get(name)} for name in changed]
    body = b"".join(orjson.dumps(each) + b"\n" for each in lines)
    try:
        await context.store.create(replaced_key(job), body)
    except Conflict:
        return  # an interrupted attempt has kept it


class Replaced:
    """`Source` that puts back what a job replaced, and names what it added: only documents that are still the job's."""

    location = "documents that a job replaced"

    def __init__(self, before: Mapping[str, list[Any] | None], wanted: Collection[str]) -> None:
        """Put back the `wanted` documents of `before`, which has their chunks, or None for a new document."""
        self._before = {name: before[name] for name in wanted}

    async def fetch(self, cursor: str) -> AsyncIterator[Page]:  # noqa: ARG002 - the documents are named
        """List the old documents, and remove the new ones."""
        entries = [
            _entry(Document(id=name, kind="prepared", text=orjson.dumps(chunks).decode()))
            for name, chunks in self._before.items()
            if chunks is not None
        ]
        new = [name for name, chunks in self._before.items() if chunks is None]
        for start in range(0, max(len(entries), len(new)), DOCUMENTS):
            yield Page(entries=entries[start : start + DOCUMENTS], gone=new[start : start + DOCUMENTS])


async def read_replaced(store: Store, job: str) -> dict[str, list[Any] | None]:
    """Read what a job replaced: the chunks of each document that it may have changed, None where that is new."""
    try:
        body = (await store.get(replaced_key(job))).body
    except NotFound:
        return {}  # it has changed nothing yet
    return {each["id"]: each["chunks"] for each in map(orjson.loads, body.splitlines())}


async def still_its_own(
    parts: Sequence[JobDocument | JobFile | str], rules: Rules, context: Context
) -> set[str]:
    """Return the documents of a job that are in the ledger as the job wrote them: nobody has changed them since."""
    found: set[str] = set()
    for start in range(0, len(parts), DOCUMENTS):
        wanted = {id_of(each): mark_of(each, rules) for each in parts[start : start + DOCUMENTS]}
        known = await context.ledger.documents.etags(rules.source, wanted)
        found.update(name for name, mark in wanted.items() if known.get(name, "") == mark)
    return found


def mark_of(part: JobDocument | JobFile | str, rules: Rules) -> str:
    """Return what the ledger says of a document once a job has written it, "" once it has removed it."""
    return "" if isinstance(part, str) else f"{rules.fingerprint}:{etag_of(part)}"


def _entry(document: Document) -> Entry:
    return Entry(document=document.id, etag=document.hash, read=lambda: document)
