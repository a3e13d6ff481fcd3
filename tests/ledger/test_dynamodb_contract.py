"""The ledger in DynamoDB fulfils the contracts, on the emulator."""

from __future__ import annotations

import secrets
from itertools import count
from typing import TYPE_CHECKING

import pytest
from tests.support.aws.dynamodb import address

from flowbed.ledger.dynamodb import open_dynamodb
from flowbed.ledger.dynamodb.client import connect
from flowbed.ledger.dynamodb.opening import place_of
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
    from collections.abc import Iterator

    from flowbed.ledger import Ledger
    from flowbed.ledger.dynamodb.client import Send
    from flowbed.testing.aws import Emulator

ACCOUNT = "300000000001"
TABLES = count(1)


@pytest.fixture(scope="module")
def send(aws: Emulator) -> Iterator[Send]:
    """Send requests to the emulator, through one client for all tests: opening one takes longer than a test."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in aws.variables(account=ACCOUNT).items():
            patch.setenv(name, value)
        yield connect(place_of(address(aws, "any")))


@pytest.fixture
async def ledger(aws: Emulator, send: Send) -> Ledger:
    url = address(aws, f"contract{next(TABLES)}")
    return await open_dynamodb(url, new_id=secrets.token_hex(16), send=send)


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
