"""The ledger in SQLite keeps every promise of the protocols, in a file and in memory."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from flowbed.ledger import open_ledger
from flowbed.testing.ledger import (
    BatchesContract,
    ChunksContract,
    DeadLettersContract,
    DocumentsContract,
    RunsContract,
)

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from flowbed.ledger import Ledger


@pytest.fixture(params=["file", "memory"])
async def ledger(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Ledger]:
    url = "ledger.db" if request.param == "file" else ":memory:"
    opened = await open_ledger(url, folder=tmp_path, new_id="0" * 32)
    yield opened
    await opened.close()


class TestDocuments(DocumentsContract): ...


class TestChunks(ChunksContract): ...


class TestBatches(BatchesContract): ...


class TestRuns(RunsContract): ...


class TestDeadLetters(DeadLettersContract): ...
