"""Chunks that others change while they are claimed."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from flowbed.pipeline.claims import Fresh
from flowbed.pipeline.embed import embed
from flowbed.pipeline.sync import sync

if TYPE_CHECKING:
    from tests.pipeline.conftest import Project


async def test_a_chunk_that_changes_while_it_is_claimed_is_embedded_as_it_is_now(project: Project) -> None:
    """A worker that claims a chunk, and once more after a fetch has changed it, lays down the newer one alone."""
    project.write_lines("notes.jsonl", [{"id": "a", "text": "one"}, {"id": "b", "text": "another"}])
    async with await project.open() as bed:
        await bed.add("notes", kind="jsonl", location="notes.jsonl")
        parts, feed, fresh = bed._parts(), (await bed._feeds([]))["notes"], Fresh()
        embedding = asyncio.create_task(embed(parts, sources=("notes",), fresh=fresh))
        await sync(feed, parts, allow_deletes=False, wrote=fresh.add)
        while not await parts.ledger.chunks.workers():  # noqa: ASYNC110 - the ledger tells nobody
            await asyncio.sleep(0.01)
        project.write_lines("notes.jsonl", [{"id": "a", "text": "two"}, {"id": "b", "text": "another"}])
        await sync(feed, parts, allow_deletes=False, wrote=fresh.add)
        fresh.end()
        assert (await embedding).failures == []
        assert set((await bed.status()).chunks) == {"SUCCESS"}
    assert project.documents("notes") == {"notes#a#00000": "two", "notes#b#00000": "another"}
