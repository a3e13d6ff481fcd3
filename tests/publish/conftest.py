"""A collection to publish, and plain readers of what was published."""

from __future__ import annotations

import asyncio
import shutil
from typing import TYPE_CHECKING

import pytest
from tests.server.chroma.conftest import chroma_url  # noqa: F401 - one server for a session

from flowbed.ledger import open_ledger
from flowbed.publish import open_publication
from flowbed.storage import open_store
from flowbed.testing.clock import FixedClock
from flowbed.testing.publication import PublishBench, numbered

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path


async def bench_in(folder: Path) -> PublishBench:
    """Open the collection in a folder."""
    return PublishBench(
        store=open_store("store", folder=folder),
        ledger=await open_ledger("ledger.db", folder=folder, new_id="l"),
        clock=FixedClock(),
        scratch=folder / "scratch",
    )


@pytest.fixture
async def publish_bench(tmp_path: Path) -> AsyncIterator[PublishBench]:
    """An empty collection in a folder."""
    bench = await bench_in(tmp_path)
    yield bench
    await bench.aclose()


@pytest.fixture(scope="session")
def published_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a collection of 40 rows that was published once; to be copied, not changed."""
    folder = tmp_path_factory.mktemp("published")

    async def publish() -> None:
        bench = await bench_in(folder)
        await bench.commit(numbered(40, color="red"))
        await bench.publish(open_publication("chroma", bench.context(), {}))
        await bench.ledger.close()

    asyncio.run(publish())
    return folder


@pytest.fixture
async def published(published_folder: Path, tmp_path: Path) -> AsyncIterator[PublishBench]:
    """A collection of 40 red rows that was published once."""
    bench = await bench_in(shutil.copytree(published_folder, tmp_path / "published"))
    bench.adopt(numbered(40, color="red"))
    yield bench
    await bench.aclose()
