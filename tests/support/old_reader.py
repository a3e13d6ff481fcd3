"""Reads an existing table of receipts as programs of existing deployments do, and refuses what they refuse."""

from __future__ import annotations

from datetime import datetime
from typing import Any
from uuid import UUID

STATES = {"PENDING", "PROCESSING", "COMPLETED", "FAILED"}
STATUSES = {"PENDING", "VALIDATING", "IN_PROGRESS", "FINALIZING", "COMPLETED", "FAILED", "EXPIRED"} | {
    "CANCELING",
    "CANCELLED",
}
TIMES = ("started_at", "finished_at")


def runs_of(client: Any, table: str, image: str, receipt: int) -> list[dict[str, Any]]:
    """Return the runs of a receipt."""
    answer = client.query(
        TableName=table,
        KeyConditionExpression="PK = :p AND begins_with(SK, :s)",
        ExpressionAttributeValues={
            ":p": {"S": f"IMAGE#{image}"},
            ":s": {"S": f"RECEIPT#{receipt:05d}#COMPACTION_RUN#"},
        },
    )
    return [parsed_run(item) for item in answer["Items"]]


def newest_runs(client: Any, table: str) -> list[dict[str, Any]]:
    """Return all runs, the newest first."""
    answer = client.query(
        TableName=table,
        IndexName="GSI1",
        KeyConditionExpression="GSI1PK = :p",
        ExpressionAttributeValues={":p": {"S": "RUNS"}},
        ScanIndexForward=False,
    )
    for item in answer["Items"]:
        assert item["GSI1SK"]["S"] == f"CREATED_AT#{item['created_at']['S']}"
    return [parsed_run(item) for item in answer["Items"]]


def batches(client: Any, table: str, status: str, kind: str) -> list[dict[str, Any]]:
    """Return the batches of a status and a type."""
    answer = client.query(
        TableName=table,
        IndexName="GSI1",
        KeyConditionExpression="GSI1PK = :p AND begins_with(GSI1SK, :s)",
        ExpressionAttributeValues={":p": {"S": f"STATUS#{status}"}, ":s": {"S": f"BATCH_TYPE#{kind}#"}},
    )
    return [parsed_batch(item) for item in answer["Items"]]


def parsed_run(item: dict[str, Any]) -> dict[str, Any]:
    """Read a COMPACTION_RUN."""
    assert item["TYPE"]["S"] == "COMPACTION_RUN"
    image, (word, number, what, run) = item["PK"]["S"].removeprefix("IMAGE#"), item["SK"]["S"].split("#")
    assert (word, what) == ("RECEIPT", "COMPACTION_RUN")
    assert all(UUID(each).version in {4, 5} for each in (image, run))
    assert (item["run_id"]["S"], item["image_id"]["S"]) == (run, image)
    assert int(item["receipt_id"]["N"]) == int(number) > 0
    found: dict[str, Any] = {"run_id": run, "created_at": datetime.fromisoformat(item["created_at"]["S"])}
    datetime.fromisoformat(item["updated_at"]["S"])
    for side in ("lines", "words"):
        state, prefix = item[f"{side}_state"]["S"], item[f"{side}_delta_prefix"]["S"]
        assert state in STATES
        assert prefix
        times = [item[f"{side}_{name}"].get("S") for name in TIMES]
        assert all(datetime.fromisoformat(each) for each in times if each)
        assert (times[1] is not None) == (state in {"COMPLETED", "FAILED"})
        merged = int(item[f"{side}_merged_vectors"]["N"])
        assert merged >= 0
        found[side] = (state, merged, item[f"{side}_error"].get("S", ""))
        found[f"{side}_delta_prefix"] = prefix
    return found


def parsed_batch(item: dict[str, Any]) -> dict[str, Any]:
    """Read a BATCH_SUMMARY."""
    assert (item["TYPE"]["S"], item["SK"]["S"]) == ("BATCH_SUMMARY", "STATUS")
    batch, kind, status = item["PK"]["S"].split("#")[1], item["batch_type"]["S"], item["status"]["S"]
    assert kind in {"LINE_EMBEDDING", "WORD_EMBEDDING"}
    assert status in STATUSES
    assert item["GSI1PK"]["S"] == f"STATUS#{status}"
    assert item["GSI1SK"]["S"] == f"BATCH_TYPE#{kind}#BATCH_ID#{batch}"
    datetime.fromisoformat(item["submitted_at"]["S"])
    assert isinstance(item["result_file_id"]["S"], str)
    return {
        "batch_id": batch,
        "openai_batch_id": item["openai_batch_id"]["S"],
        "result": item["result_file_id"]["S"],
        "receipts": [
            (each["M"]["image_id"]["S"], int(each["M"]["receipt_id"]["N"]))
            for each in item["receipt_refs"]["L"]
        ],
    }
