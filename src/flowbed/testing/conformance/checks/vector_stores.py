"""Vector stores: files attached, awaited, found and taken out.

See https://platform.openai.com/docs/api-reference/vector-stores.
"""

from __future__ import annotations

import asyncio
import time
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

from flowbed.testing.conformance.comparing import TEXTS
from flowbed.testing.conformance.jobs import LONGER, LOOK, LOOK_MOST, upload
from flowbed.testing.conformance.records import Failed

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

    from flowbed.testing.conformance.client import Client
    from flowbed.testing.conformance.exchanges import SdkAnswer

COUNTS = ("in_progress", "completed", "failed", "cancelled")
NO_TEXT = bytes(range(16))


async def described(client: Client) -> None:
    """A new vector store is described: its id, name, status, counts and metadata."""
    async with _store(client, name="conformance", metadata={"a": "b"}) as created:
        payload = created.exchange.fields
        client.require(payload.get("object") == "vector_store", f"`object` is {payload.get('object')!r}")
        client.require(payload.get("name") == "conformance", f"`name` is {payload.get('name')!r}")
        client.require(payload.get("metadata") == {"a": "b"}, f"`metadata` is {payload.get('metadata')!r}")
        client.require(payload.get("status") == "completed", f"`status` is {payload.get('status')!r}")
        none = dict.fromkeys((*COUNTS, "total"), 0)
        client.require(payload.get("file_counts") == none, f"`file_counts` is {payload.get('file_counts')!r}")


async def found(client: Client) -> None:
    """A file is found by its text once it is completed, with its name, attributes and a score from 0 to 1."""
    async with _store(client) as created:
        store = created.parsed.id
        name, attributes = "tea.txt", {"topic": "tea", "year": 1843, "draft": False}
        file = await _attach(client, store, TEXTS[0], name=name, attributes=attributes)
        best = await _search(client, store, TEXTS[0])
        client.require(best, "a completed file is not found")
        hit = best[0]
        client.require(hit["file_id"] == file, f"`file_id` is {hit['file_id']!r}, not {file!r}")
        client.require(hit["filename"] == name, f"`filename` is {hit['filename']!r}, not {name!r}")
        client.require(hit["attributes"] == attributes, f"`attributes` are {hit['attributes']!r}")
        client.require(0 <= hit["score"] <= 1, f"`score` is {hit['score']!r}")
        client.require(TEXTS[0] in hit["content"][0]["text"], f"`content` is {hit['content']!r}")


async def filtered(client: Client) -> None:
    """A search finds only files whose attributes match its filter."""
    async with _store(client) as created:
        store = created.parsed.id
        files = [
            await _attach(client, store, text, name=f"{place}.txt", attributes={"place": place})
            for place, text in enumerate(TEXTS[:2])
        ]
        for kind, wanted in (("eq", files[1:]), ("ne", files[:1]), ("gte", files[1:]), ("lt", files[:1])):
            filters = {"type": kind, "key": "place", "value": 1}
            hits = {hit["file_id"] for hit in await _search(client, store, TEXTS[0], filters=filters)}
            client.require(hits == set(wanted), f"{kind} finds {hits}, not {wanted}")


async def counted(client: Client) -> None:
    """Of a batch with a file that has no text, the others are completed, and no file is in progress."""
    async with _store(client) as created:
        store = created.parsed.id
        sent = [
            await upload(client, content, purpose="assistants", name=name)
            for name, content in (
                ("a.txt", TEXTS[0].encode()),
                ("b.txt", TEXTS[1].encode()),
                ("c.bin", NO_TEXT),
            )
        ]
        files = [each.parsed.id for each in sent]
        batch = await client.ask("vector_stores.file_batches.create", store, file_ids=files)
        _require_counts(client, batch, total=3)
        while batch.parsed.file_counts.in_progress:
            batch = await _again(client, batch, "vector_stores.file_batches.retrieve", store)
        _require_counts(client, batch, total=3, completed=2, failed=1)
        failed = await client.ask("vector_stores.files.retrieve", files[2], vector_store_id=store)
        client.require(
            failed.parsed.last_error, f"the failed file has no `last_error`: {failed.exchange.shown}"
        )


async def ended(client: Client) -> None:
    """A batch that was cancelled has no file in progress."""
    async with _store(client) as created:
        store = created.parsed.id
        file = (await upload(client, TEXTS[0].encode(), purpose="assistants", name="a.txt")).parsed.id
        batch = await client.ask("vector_stores.file_batches.create", store, file_ids=[file])
        batch = await client.ask("vector_stores.file_batches.cancel", batch.parsed.id, vector_store_id=store)
        until = time.monotonic() + client.target.batch_timeout
        while batch.parsed.file_counts.in_progress:
            client.require(time.monotonic() < until, "a cancelled batch stays in progress (--batch-timeout)")
            batch = await _again(client, batch, "vector_stores.file_batches.retrieve", store)
        _require_counts(client, batch, total=1)


async def removed(client: Client) -> None:
    """A file that was taken out of a store is not found, and is not deleted."""
    async with _store(client) as created:
        store = created.parsed.id
        file = await _attach(client, store, TEXTS[0], name="a.txt")
        await client.ask("vector_stores.files.delete", file, vector_store_id=store)
        hits = await _search(client, store, TEXTS[0])
        client.require(not hits, f"a file that was taken out is found: {hits}")
        await client.ask("files.retrieve", file)


async def unknown(client: Client) -> None:
    """A vector store that was deleted is refused with 404."""
    async with _store(client) as created:
        store = created.parsed.id
    await client.refused_by({404}, "vector_stores.retrieve", store)
    await client.refused_by({404}, "vector_stores.search", store, query=TEXTS[0])


@asynccontextmanager
async def _store(client: Client, **said: Any) -> AsyncIterator[SdkAnswer]:  # arguments of the SDK
    """Create a vector store, and delete it in the end."""
    created = await client.ask("vector_stores.create", **said)
    try:
        yield created
    finally:
        await client.ask("vector_stores.delete", created.parsed.id)


async def _attach(client: Client, store: str, text: str, *, name: str, **how: Any) -> str:
    """Upload a file, attach it, wait until it is completed, and return its id."""
    file: str = (await upload(client, text.encode(), purpose="assistants", name=name)).parsed.id
    until = time.monotonic() + client.target.batch_timeout
    found = await client.ask("vector_stores.files.create", store, file_id=file, **how)
    wait = LOOK
    while found.parsed.status == "in_progress":
        if time.monotonic() > until:
            raise Failed(f"the file is in progress after {client.target.batch_timeout:g} s (--batch-timeout)")
        await asyncio.sleep(wait)
        wait = min(wait * LONGER, LOOK_MOST)
        found = await client.ask("vector_stores.files.retrieve", file, vector_store_id=store)
    client.require(found.parsed.status == "completed", f"the file is not completed: {found.exchange.shown}")
    return file


async def _again(client: Client, answer: SdkAnswer, what: str, store: str) -> SdkAnswer:
    await asyncio.sleep(LOOK)
    return await client.ask(what, answer.parsed.id, vector_store_id=store)


async def _search(client: Client, store: str, query: str, **how: Any) -> Sequence[dict[str, Any]]:
    return (await client.ask("vector_stores.search", store, query=query, **how)).exchange.rows


def _require_counts(client: Client, batch: SdkAnswer, **wanted: int) -> None:
    """Require that the counts of a batch add up, and that some have these values."""
    counts = batch.parsed.file_counts
    said = {name: getattr(counts, name) for name in (*COUNTS, "total")}
    client.require(sum(said[name] for name in COUNTS) == said["total"], f"the counts do not add up: {said}")
    client.require(said | wanted == said, f"`file_counts` is {said}, and should have {wanted}")


CHECKS = (described, found, filtered, counted, ended, removed, unknown)
