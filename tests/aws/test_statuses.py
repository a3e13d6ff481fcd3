"""Statuses of an existing table follow the ledger, and what others have changed is theirs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from tests.support.aws.receipts_table import create_table, items_of
from tests.support.projects import receipt

from flowbed.testing.simulators import Fault

if TYPE_CHECKING:
    from tests.aws.conftest import Deployment

    from flowbed.testing.simulators import SimulatorProcess

RECORD = receipt(1, ["GRAND TOTAL 7.80", "CASH 10.00"], merchant_name="WAN SHENG")


@pytest.fixture
def table(deployment: Deployment) -> Any:
    """Let the deployment read a table of one receipt, and return a client of it."""
    client = deployment.client("dynamodb")
    create_table(client, "receipts")
    for item in items_of(RECORD):
        client.put_item(TableName="receipts", Item=item)
    settings = deployment.package / "flowbed.toml"
    head = settings.read_text().partition("[sources.")[0]
    settings.write_text(
        f'{head}[sources.receipts]\nkind = "receipts"\nlocation = "dynamodb://receipts"\n'
        "options = {write_status = true}\n"
    )
    return client


def statuses(client: Any) -> dict[str, str]:
    """Return the status of each line and word by its sort key, and check that its index has the same."""
    found = {}
    for item in client.scan(TableName="receipts")["Items"]:
        if "embedding_status" in item:
            status = item["embedding_status"]["S"]
            assert item["GSI1PK"]["S"] == f"EMBEDDING_STATUS#{status}"
            found[item["SK"]["S"]] = status
    return found


def test_compaction_writes_statuses_of_what_it_committed(
    deployment: Deployment, table: Any, provider: SimulatorProcess
) -> None:
    """A refused text is FAILED; once all are written, the next fetch reads nothing."""
    provider.order(Fault(kind="error", status=400, text="CASH"))
    assert deployment.call("data_fetcher")["sources"]["receipts"]["fetched"] == 1
    deployment.call("compaction")
    assert set(statuses(table).values()) == {"NONE"}
    with pytest.raises(Exception, match="were refused"):
        deployment.call("process_receipt_realtime", {"image_id": "image-1", "receipt_id": 1})
    deployment.call("compaction")
    found = statuses(table)
    refused = {"RECEIPT#00001#LINE#00002", "RECEIPT#00001#LINE#00002#WORD#00004"}
    assert {key for key, status in found.items() if status == "FAILED"} == refused
    assert sorted(found.values()).count("SUCCESS") == 5
    assert deployment.metrics("flowbed")["StatusesWritten"] == 7
    assert deployment.contents().rows["lines"].keys() == {"IMAGE#image-1#RECEIPT#00001#LINE#00001"}
    assert deployment.call("data_fetcher")["sources"]["receipts"] == {
        "fetched": 0,
        "chunks": 0,
        "batches": [],
    }


def test_compaction_leaves_a_line_that_was_edited_since_to_the_next_fetch(
    deployment: Deployment, table: Any
) -> None:
    """Its old text is in the index, and its new one is not."""
    deployment.call("data_fetcher")
    deployment.call("process_receipt_realtime", {"image_id": "image-1", "receipt_id": 1})
    edited = next(item for item in items_of(RECORD) if item["SK"]["S"].endswith("#LINE#00002"))
    table.put_item(TableName="receipts", Item={**edited, "text": {"S": "CHANGE 2.20"}})
    deployment.call("compaction")
    assert set(statuses(table).values()) == {"NONE"}
    assert deployment.call("data_fetcher")["sources"]["receipts"]["chunks"] == 2  # and its neighbour
    deployment.call("process_receipt_realtime", {"image_id": "image-1", "receipt_id": 1})
    deployment.call("compaction")
    assert set(statuses(table).values()) == {"SUCCESS"}
    texts = {row.document for row in deployment.contents().rows["lines"].values()}
    assert texts == {"GRAND TOTAL 7.80", "CHANGE 2.20"}
