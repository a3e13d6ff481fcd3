"""The ledger in DynamoDB fulfils the contracts, on the emulator."""

from __future__ import annotations

import secrets
from itertools import count
from typing import TYPE_CHECKING

import pytest

from flowbed.ledger.dynamodb import open_dynamodb
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
    from flowbed.testing.aws import Emulator

TABLES = count(1)
pytestmark = pytest.mark.long


@pytest.fixture
async def ledger(aws: Emulator, monkeypatch: pytest.MonkeyPatch) -> Ledger:
    for name, value in aws.variables(account="300000000001").items():
        monkeypatch.setenv(name, value)
    return await open_dynamodb(
        f"dynamodb://contract{next(TABLES)}?region=us-east-1", new_id=secrets.token_hex(16)
    )


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


class TestJobs(JobsContract): ...


class TestVectorStores(VectorStoresContract): ...


class TestIndexJobs(IndexJobsContract): ...
