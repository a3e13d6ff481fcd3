"""Chroma directories keep the contract of publications."""

from __future__ import annotations

import asyncio
import shutil
from typing import TYPE_CHECKING

import numpy as np
from tests.support.publishing import read_plainly

from flowbed.publish import open_publication
from flowbed.publish.chroma import current_snapshot, snapshot_key
from flowbed.publish.chroma.files import download
from flowbed.testing.publication import PublicationContract, PublishedRow

if TYPE_CHECKING:
    from flowbed.publish import Publication
    from flowbed.testing.publication import PublishBench


class TestChromaDirectories(PublicationContract):
    """Snapshots behind a pointer, read by chromadb alone."""

    def open(self, bench: PublishBench) -> Publication:
        return open_publication("chroma", bench.context(), {})

    async def read(self, bench: PublishBench) -> dict[str, PublishedRow]:
        snapshot = await current_snapshot(bench.store, "docs")
        directory = bench.scratch / "reader"
        for name in snapshot.files:
            await download(bench.store, snapshot, name, directory / name)
        found = await asyncio.to_thread(read_plainly, directory, "docs")
        shutil.rmtree(directory)
        assert found["count"] == snapshot.rows
        return {
            name: PublishedRow(
                document=document, metadata=metadata or {}, vector=np.asarray(vector, np.float32)
            )
            for name, document, metadata, vector in zip(
                found["ids"], found["documents"], found["metadatas"], found["vectors"], strict=True
            )
        }

    async def spoil(self, bench: PublishBench) -> None:
        snapshot = await current_snapshot(bench.store, "docs")
        await bench.store.put(f"{snapshot_key('docs', snapshot.version)}/chroma.sqlite3", b"not a database")
