"""The functions of the realtime flow: receipts are found page by page, embedded, and committed from a queue."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any

import pytest
from tests.support.aws.events import eventbridge_event, run_record, sqs_event
from tests.support.projects import receipt

from flowbed.errors import Rejected, Transient
from flowbed.testing.simulators import Fault

if TYPE_CHECKING:
    from tests.aws.conftest import Deployment

    from flowbed.testing.simulators import SimulatorProcess


def stream_event(deployment: Deployment) -> dict[str, Any]:
    """Return the records in which the stream of the ledger's table tells of its pending runs."""

    async def pending(bed: Any) -> list[Any]:
        runs = []
        for collection in await bed.ledger.runs.collections():
            runs += await bed.ledger.runs.pending(collection, limit=100)
        return runs

    return {
        "Records": [
            run_record(run.id, run.collection, sequence=100 + place, key=run.key)
            for place, run in enumerate(deployment.use(pending))
        ]
    }


def test_receipts_are_found_processed_and_committed_from_the_queue(
    deployment: Deployment, provider: SimulatorProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    deployment.call("data_fetcher")
    found = deployment.call("find_receipts_realtime", {"limit": 1})
    assert found["receipts"] == [{"image_id": "image-1", "receipt_id": 1}]
    assert found["total_receipts"] == 1
    rest = deployment.call(
        "find_receipts_realtime", {"limit": 1, "last_evaluated_key": found["last_evaluated_key"]}
    )
    assert (rest["receipts"], rest["last_evaluated_key"]) == (
        [{"image_id": "image-2", "receipt_id": 1}],
        None,
    )
    done = [
        deployment.call("process_receipt_realtime", each) for each in found["receipts"] + rest["receipts"]
    ]
    assert done[0]["run_id"] == done[1]["run_id"]  # both waited in one batch file, and were embedded together
    first = {name: value for name, value in done[0].items() if name not in {"run_id", "runs"}}
    assert first == {
        "status": "success",
        "image_id": "image-1",
        "receipt_id": 1,
        "lines_count": 2,
        "words_count": 5,
        "merchant_name": "WAN SHENG",
    }
    assert deployment.call("process_receipt_realtime", found["receipts"][0]) == done[0]
    assert deployment.call("find_receipts_realtime")["receipts"] == []
    queue = deployment.queue("compaction")
    monkeypatch.setenv("COMPACTION_QUEUE_URL", queue)
    told = stream_event(deployment)
    assert deployment.call("stream_processor", told) == {"batchItemFailures": []}
    messages = deployment.received(queue)
    assert sorted(each["MessageAttributes"]["collection"]["StringValue"] for each in messages) == [
        "lines",
        "words",
    ]
    body = json.loads(messages[0]["Body"])
    assert (body["entity_type"], body["event_name"]) == ("COMPACTION_RUN", "INSERT")
    assert body["entity_data"]["run_id"] in done[0]["runs"].values()
    # Duplicates, in another order.
    event = sqs_event([*messages[::-1], {**messages[0], "MessageId": "again"}])
    assert deployment.call("compaction", event) == {"batchItemFailures": []}
    assert deployment.contents().total == 10
    assert deployment.call("compaction", event) == {"batchItemFailures": []}
    assert provider.billed_again() == {}
    listed = deployment.call("find_receipts_realtime", {"filter_by_embedding_status": "SUCCESS"})
    assert listed["total_receipts"] == 2


def test_process_receipt_without_chunks_is_skipped(deployment: Deployment) -> None:
    named = {"image_id": "nowhere", "receipt_id": 7}
    skipped = {"status": "skipped", "reason": "no_data", **named}
    assert deployment.call("process_receipt_realtime", named) == skipped


def test_process_receipt_on_the_batch_lane_is_skipped(deployment: Deployment) -> None:
    deployment.call("data_fetcher")
    deployment.call("find_unembedded")
    named = {"image_id": "image-1", "receipt_id": 1}
    skipped = {"status": "skipped", "reason": "submitted", **named}
    assert deployment.call("process_receipt_realtime", named) == skipped


def test_process_receipt_of_a_provider_that_is_down_raises_transient(
    deployment: Deployment, provider: SimulatorProcess, quick_polls: None
) -> None:
    """The class is the one that Retry names, and what was claimed waits again."""
    deployment.call("data_fetcher")
    provider.order(Fault(kind="error", status=500))
    with pytest.raises(Transient, match="no request succeeds any more") as raised:
        deployment.call("process_receipt_realtime", {"image_id": "image-1", "receipt_id": 1})
    assert type(raised.value) is Transient
    failure = next(each for each in deployment.lines if each.get("error"))
    assert (failure["level"], failure["error"]) == ("ERROR", "Transient")
    assert deployment.metrics("flowbed")["Errors"] == 1
    provider.order()
    assert (
        deployment.call("process_receipt_realtime", {"image_id": "image-1", "receipt_id": 1})["status"]
        == "success"
    )


def test_process_receipt_with_a_refused_text_raises_rejected(
    deployment: Deployment, provider: SimulatorProcess
) -> None:
    """Its other chunks are embedded, and the refused one is a dead letter."""
    deployment.call("data_fetcher")
    provider.order(Fault(kind="error", status=400, text="CASH"))
    with pytest.raises(Rejected, match="chunks of IMAGE#image-1#RECEIPT#00001 were refused"):
        deployment.call("process_receipt_realtime", {"image_id": "image-1", "receipt_id": 1})
    assert (
        deployment.call("process_receipt_realtime", {"image_id": "image-2", "receipt_id": 1})["status"]
        == "success"
    )
    deployment.call("compaction")
    letters = deployment.use(lambda bed: bed.dead_letters())
    assert {each.subject for each in letters} == {
        "IMAGE#image-1#RECEIPT#00001#LINE#00002",
        "IMAGE#image-1#RECEIPT#00001#LINE#00002#WORD#00004",
    }
    assert deployment.contents().total == 8


def test_call_out_of_time_gives_back_what_it_holds(
    deployment: Deployment, provider: SimulatorProcess
) -> None:
    deployment.call("data_fetcher")
    provider.order(Fault(kind="error", status=503, delay=30))
    with pytest.raises(Transient, match="the function's 2 s are over"):
        deployment.call("process_receipt_realtime", {"image_id": "image-1", "receipt_id": 1}, seconds=2)
    assert (
        deployment.call("find_receipts_realtime", {"filter_by_embedding_status": "NONE"})["total_receipts"]
        == 2
    )


def test_compaction_of_bad_messages_fails_only_those(
    deployment: Deployment, monkeypatch: pytest.MonkeyPatch
) -> None:
    deployment.call("data_fetcher")
    deployment.call("process_receipt_realtime", {"image_id": "image-1", "receipt_id": 1})
    queue = deployment.queue("compaction")
    monkeypatch.setenv("COMPACTION_QUEUE_URL", queue)
    deployment.call("stream_processor", stream_event(deployment))
    bodies = [
        "{",
        '{"hello": 1}',
        '{"entity_data": {"run_id": "unknown"}}',
        "[" * 100_000,
        '{"entity_data": {"run_id": "\\ud83d"}}',
        '{"entity_data": {"run_id": "\\u0000"}}',
        '{"entity_data": {"run_id": "r", "words_delta_prefix": "words/delta/\\ud83d"}}',
    ]
    bad = [{"Body": body, "MessageId": f"bad{place}"} for place, body in enumerate(bodies)]
    done = deployment.call("compaction", sqs_event([*bad, *deployment.received(queue)]))
    assert [each["itemIdentifier"] for each in done["batchItemFailures"]] == [f"bad{n}" for n in range(7)]
    assert deployment.contents().total == 10
    reasons = {each.subject: each.reason for each in deployment.use(lambda bed: bed.dead_letters())}
    assert reasons["bad3"] == "the message is not JSON: nested too deeply"
    assert reasons["bad6"].startswith("words_delta_prefix of the message is 'words/delta/")


def test_compaction_of_a_damaged_delta_names_it_and_commits_the_rest(
    deployment: Deployment, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its message is done: the run is a dead letter, and would be refused each time."""
    deployment.call("data_fetcher")
    done = deployment.call("process_receipt_realtime", {"image_id": "image-1", "receipt_id": 1})
    key = f"index/lines/delta/{done['runs']['lines']}/delta.arrow"
    deployment.client("s3").put_object(Bucket=deployment.bucket, Key=key, Body=b"damaged")
    queue = deployment.queue("compaction")
    monkeypatch.setenv("COMPACTION_QUEUE_URL", queue)
    deployment.call("stream_processor", stream_event(deployment))
    event = sqs_event(deployment.received(queue))
    assert deployment.call("compaction", event) == {"batchItemFailures": []}
    (letter,) = deployment.use(lambda bed: bed.dead_letters())
    assert (letter.kind, letter.subject) == ("run", done["runs"]["lines"])
    assert deployment.contents().total == 7


def test_correlation_ids_lead_from_fetch_over_embedding_to_commit(deployment: Deployment) -> None:
    """Whoever knows the batch file of a text finds the calls of all three functions in their logs."""
    (key,) = deployment.call("data_fetcher")["sources"]["receipts"]["batches"]
    deployment.call("embedder", eventbridge_event(deployment.bucket, f"index/{key}"))
    deployment.call("compaction")
    (batch,) = re.findall(r"batch_(\w+)\.json", key)
    followed, points = {batch}, []
    for line in deployment.lines:
        if followed & set(line.get("correlation_ids", ())):
            followed |= set(line["correlation_ids"])
            points.append((line.get("point"), line["request_id"]))
    assert points == [
        ("batch.written", "r0"),
        (None, "r1"),  # what the embedder has taken in
        *[("run.recorded", "r1")] * 2,
        *[("run.committed", "r2")] * 2,
    ]
    assert {each["function"] for each in deployment.lines} == {"flowbed"}


def receipts_of(deployment: Deployment, *receipts: dict[str, Any]) -> None:
    """Replace the receipts of the source."""
    lines = "".join(f"{json.dumps(each)}\n" for each in receipts)
    (deployment.package / "receipts.jsonl").write_text(lines)


def test_deleted_receipt_leaves_the_index_with_the_next_compaction(deployment: Deployment) -> None:
    deployment.call("data_fetcher")
    deployment.call("process_receipt_realtime", {"image_id": "image-1", "receipt_id": 1})
    deployment.call("compaction")
    receipts_of(deployment, receipt(1, ["GRAND TOTAL 7.80", "CASH 10.00"], merchant_name="WAN SHENG"))
    deployment.call("data_fetcher")
    compacted = deployment.call("compaction")
    assert {name: each["rows"] for name, each in compacted["collections"].items()} == {"lines": 1, "words": 2}
    assert deployment.contents().total == 7
