"""The SQL ledger fulfils the contracts: in a SQLite file, in memory, and on Postgres."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from flowbed.testing.ledger import (
    BatchesContract,
    CarryingContract,
    ChunksContract,
    ClaimsContract,
    DeadLettersContract,
    DocumentsContract,
    ErasingContract,
    FilesContract,
    IndexJobsContract,
    JobsContract,
    KeysContract,
    OverviewContract,
    QuotasContract,
    RollbacksContract,
    RunsContract,
    SpendingContract,
    SubmissionsContract,
    TakingContract,
    VectorStoresContract,
    WorkersContract,
)

if TYPE_CHECKING:
    from tests.ledger.conftest import EmptyLedger

    from flowbed.ledger import Ledger


PAGE = 100  # rows: each row of a few pages is a transaction


@pytest.fixture(params=["file", "memory", "postgres"])
async def ledger(
    request: pytest.FixtureRequest, empty_ledger: EmptyLedger, monkeypatch: pytest.MonkeyPatch
) -> Ledger:
    monkeypatch.setattr("flowbed.ledger.sql.database.PAGE", PAGE)
    return await empty_ledger(request.param)


class TestDocuments(DocumentsContract): ...


class TestChunks(ChunksContract): ...


class TestClaims(ClaimsContract): ...


class TestCarrying(CarryingContract): ...


class TestTaking(TakingContract): ...


class TestOverview(OverviewContract): ...


class TestBatches(BatchesContract): ...


class TestRuns(RunsContract): ...


class TestRollbacks(RollbacksContract): ...


class TestDeadLetters(DeadLettersContract): ...


class TestKeys(KeysContract): ...


class TestQuotas(QuotasContract): ...


class TestSubmissions(SubmissionsContract):
    more = PAGE + 10


class TestSpending(SpendingContract): ...


class TestErasing(ErasingContract): ...


class TestFiles(FilesContract): ...


class TestVectorStores(VectorStoresContract): ...


class TestIndexJobs(IndexJobsContract): ...


class TestJobs(JobsContract):
    more = PAGE + 10


class TestWorkers(WorkersContract): ...
