"""Records of runs and batches in an existing table, read back as its other programs read them."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
from tests.support.aws.events import sqs_event
from tests.support.aws.receipts_table import IMAGE, create_table, items_of
from tests.support.old_reader import batches, newest_runs, runs_of
from tests.support.projects import receipt

from flowbed.aws.streams import told_runs

if TYPE_CHECKING:
    from tests.aws.conftest import Deployment

    from flowbed.testing.simulators import SimulatorProcess

TABLE = "receipts"


def record(number: int, texts: list[str]) -> dict[str, Any]:
    """Return a receipt whose image has an id as such tables have them."""
    return {**receipt(number, texts, merchant_name="WAN SHENG"), "image_id": IMAGE.format(number)}


RECORDS = [record(1, ["GRAND TOTAL 7.80", "CASH 10.00"]), record(2, ["TOTAL 7.80"])]


@pytest.fixture
def table(deployment: Deployment) -> Any:
    """Let the deployment read a table of two receipts, and return a client of it."""
    client = deployment.client("dynamodb")
    create_table(client, TABLE)
    for each in RECORDS:
        for item in items_of(each):
            client.put_item(TableName=TABLE, Item=item)
    settings = deployment.package / "flowbed.toml"
    head = settings.read_text().partition("[sources.")[0]
    settings.write_text(
        f'{head}[sources.receipts]\nkind = "receipts"\nlocation = "dynamodb://{TABLE}"\n'
        "options = {write_records = true}\n"
    )
    return client


def named(number: int) -> dict[str, Any]:
    return {"image_id": IMAGE.format(number), "receipt_id": 1}


def test_run_records_follow_a_receipt_from_its_deltas_to_their_commit(
    deployment: Deployment, table: Any
) -> None:
    """One for each receipt, which names the deltas of both collections; writing again changes nothing."""
    deployment.call("data_fetcher")
    done = deployment.call("process_receipt_realtime", named(1))
    (waiting,) = runs_of(table, TABLE, IMAGE.format(1), 1)
    assert (waiting["lines"], waiting["words"]) == (("PENDING", 0, ""), ("PENDING", 0, ""))
    for side in ("lines", "words"):
        assert waiting[f"{side}_delta_prefix"] == f"index/{side}/delta/{done['runs'][side]}/"
    assert len(newest_runs(table, TABLE)) == 2  # both receipts waited in one batch file
    deployment.call("compaction")
    (found,) = runs_of(table, TABLE, IMAGE.format(1), 1)
    assert (found["run_id"], found["created_at"]) == (waiting["run_id"], waiting["created_at"])
    assert (found["lines"], found["words"]) == (("COMPLETED", 2, ""), ("COMPLETED", 5, ""))
    (other,) = runs_of(table, TABLE, IMAGE.format(2), 1)
    assert (other["lines"], other["words"]) == (("COMPLETED", 1, ""), ("COMPLETED", 2, ""))
    before = table.scan(TableName=TABLE)["Items"]
    deployment.call("process_receipt_realtime", named(1))
    deployment.call("compaction")
    assert table.scan(TableName=TABLE)["Items"] == before


def test_run_record_tells_the_stream_and_its_message_commits_our_deltas(
    deployment: Deployment, table: Any
) -> None:
    """A table of one's own and an existing one may both send messages: the second finds nothing left to do."""
    deployment.call("data_fetcher")
    deployment.call("process_receipt_realtime", named(1))
    items = [each for each in table.scan(TableName=TABLE)["Items"] if each["TYPE"]["S"] == "COMPACTION_RUN"]
    bodies = [
        json.dumps(message.body())
        for item in items
        for message in told_runs(
            {"eventName": "INSERT", "dynamodb": {"NewImage": item, "SequenceNumber": "1"}}, at=0
        )
    ]
    event = sqs_event([{"Body": body, "MessageId": f"m{place}"} for place, body in enumerate(bodies)])
    assert deployment.call("compaction", event) == {"batchItemFailures": []}
    assert deployment.contents().total == 10
    assert {each["lines"][0] for each in newest_runs(table, TABLE)} == {"COMPLETED"}
    assert deployment.call("compaction", event) == {"batchItemFailures": []}
    assert deployment.use(lambda bed: bed.dead_letters()) == []


def test_run_record_of_a_refused_delta_says_why(deployment: Deployment, table: Any) -> None:
    deployment.call("data_fetcher")
    done = deployment.call("process_receipt_realtime", named(1))
    key = f"index/lines/delta/{done['runs']['lines']}/delta.arrow"
    deployment.client("s3").put_object(Bucket=deployment.bucket, Key=key, Body=b"damaged")
    deployment.call("compaction")
    (found,) = runs_of(table, TABLE, IMAGE.format(1), 1)
    assert found["lines"][:2] == ("FAILED", 0)
    assert "sha256" in found["lines"][2]
    assert found["words"] == ("COMPLETED", 5, "")


def test_run_record_left_pending_is_finished_by_the_next_compaction(
    deployment: Deployment, table: Any
) -> None:
    """A call that dies after its commit leaves the record PENDING, and names its runs to nobody."""
    deployment.call("data_fetcher")
    deployment.call("process_receipt_realtime", named(1))
    deployment.use(lambda bed: bed.commit())
    assert {each["lines"][0] for each in newest_runs(table, TABLE)} == {"PENDING"}
    deployment.call("compaction")
    assert {each["lines"][0] for each in newest_runs(table, TABLE)} == {"COMPLETED"}


def test_batch_records_follow_a_submission_to_its_end(
    deployment: Deployment, table: Any, provider: SimulatorProcess
) -> None:
    deployment.call("data_fetcher")
    submitted = {}
    for kind in ("line", "word"):
        (batch,) = deployment.call("find_unembedded", {"batch_type": kind})["batches"]
        submitted[kind] = deployment.call("submit_openai", batch)
        assert deployment.call("submit_openai", batch) == submitted[kind]
    for kind, answer in submitted.items():
        (found,) = batches(table, TABLE, "PENDING", f"{kind.upper()}_EMBEDDING")
        assert found == {
            "batch_id": answer["batch_id"],
            "openai_batch_id": answer["openai_batch_id"],
            "result": "N/A",
            "receipts": [(IMAGE.format(1), 1), (IMAGE.format(2), 1)],
        }
    for answer in submitted.values():
        polled = deployment.call("line_polling", {**answer, "skip_sqs_notification": True})
        assert polled["status"] == "completed"
    assert batches(table, TABLE, "PENDING", "LINE_EMBEDDING") == []
    (ended,) = batches(table, TABLE, "COMPLETED", "LINE_EMBEDDING")
    assert ended["result"] == f"submissions/{ended['batch_id']}/output.jsonl"
    # The words were answered last, so the record of a run could only be written then.
    assert {each["lines"][0] for each in newest_runs(table, TABLE)} == {"PENDING"}
    deployment.call("compaction")
    assert {(each["lines"][0], each["words"][0]) for each in newest_runs(table, TABLE)} == {
        ("COMPLETED", "COMPLETED")
    }


def test_batch_of_lines_and_words_has_a_record_of_each(deployment: Deployment, table: Any) -> None:
    deployment.call("data_fetcher")
    (batch,) = deployment.call("find_unembedded")["batches"]
    answer = deployment.call("submit_openai", batch)
    lines, words = (batches(table, TABLE, "PENDING", f"{kind}_EMBEDDING") for kind in ("LINE", "WORD"))
    assert [each["batch_id"] for each in (*lines, *words)] == [
        answer["batch_id"],
        f"{answer['batch_id']}-words",
    ]
    deployment.call("line_polling", {**answer, "skip_sqs_notification": True})
    assert len(batches(table, TABLE, "COMPLETED", "WORD_EMBEDDING")) == 1


def test_records_are_written_only_where_a_source_asks(deployment: Deployment, table: Any) -> None:
    settings = deployment.package / "flowbed.toml"
    settings.write_text(settings.read_text().replace("write_records = true", "write_records = false"))
    deployment.call("data_fetcher")
    deployment.call("process_receipt_realtime", named(1))
    deployment.call("compaction")
    assert newest_runs(table, TABLE) == []
