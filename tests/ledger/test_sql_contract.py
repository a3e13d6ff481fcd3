"""The ledger in SQL keeps every promise of the protocols: in a SQLite file, in memory, and on Postgres."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from flowbed.ledger import open_ledger
from flowbed.testing.ledger import (
    BatchesContract,
    CarryingContract,
    ChunksContract,
    ClaimsContract,
    DeadLettersContract,
    DocumentsContract,
    FilesContract,
    JobsContract,
    KeysContract,
    QuotasContract,
    RollbacksContract,
    RunsContract,
    SpendingContract,
    SubmissionsContract,
    TakingContract,
)

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from flowbed.ledger import Ledger


@pytest.fixture(params=["file", "memory", "postgres"])
def url(request: pytest.FixtureRequest) -> str:
    urls = {"file": "ledger.db", "memory": ":memory:"}
    return urls.get(request.param) or str(request.getfixturevalue("ledger_url"))


@pytest.fixture
async def ledger(url: str, tmp_path: Path) -> AsyncIterator[Ledger]:
    opened = await open_ledger(url, folder=tmp_path, new_id="0" * 32)
    yield opened
    await opened.close()


class TestDocuments(DocumentsContract): ...


class TestChunks(ChunksContract): ...


class TestClaims(ClaimsContract): ...


class TestCarrying(CarryingContract): ...


class TestTaking(TakingContract): ...


class TestBatches(BatchesContract): ...


class TestRuns(RunsContract): ...


class TestRollbacks(RollbacksContract): ...


class TestDeadLetters(DeadLettersContract): ...


class TestKeys(KeysContract): ...


class TestQuotas(QuotasContract): ...


class TestSubmissions(SubmissionsContract): ...


class TestSpending(SpendingContract): ...


class TestFiles(FilesContract): ...


class TestJobs(JobsContract): ...
