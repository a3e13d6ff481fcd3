"""The ledger in memory fulfils the contracts, however far its indexes lag."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from flowbed.ledger.memory import MemoryLedger, memory_table
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
)

if TYPE_CHECKING:
    from flowbed.ledger import Ledger


@pytest.fixture(params=[0, 10, 10**6], ids=["at once", "late", "when settled"])
def ledger(request: pytest.FixtureRequest) -> Ledger:
    return MemoryLedger(memory_table(lag=request.param), id="0" * 32)


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


class TestSubmissions(SubmissionsContract): ...


class TestSpending(SpendingContract): ...


class TestErasing(ErasingContract): ...


class TestFiles(FilesContract): ...


class TestVectorStores(VectorStoresContract): ...


class TestIndexJobs(IndexJobsContract): ...


class TestJobs(JobsContract): ...
