"""The functions of the batch lane: their answers, and that a repeated or killed call loses nothing."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from flowbed.errors import NotFound, Rejected

if TYPE_CHECKING:
    from tests.aws.conftest import Deployment

    from flowbed.testing.simulators import SimulatorProcess


def poll_until_ended(deployment: Deployment, batch: dict[str, Any], function: str = "line_polling") -> Any:
    """Poll a submission until its job has ended."""
    for _ in range(100):
        polled = deployment.call(function, {**batch, "skip_sqs_notification": True})
        if polled["action"] != "wait":
            return polled
    raise AssertionError(polled)


def test_batch_handlers_in_order_fill_the_index(deployment: Deployment, provider: SimulatorProcess) -> None:
    """Inputs and outputs are those of existing deployments."""
    fetched = deployment.call("data_fetcher", {"sources": ["receipts"]})["sources"]["receipts"]
    assert (fetched["fetched"], fetched["chunks"], len(fetched["batches"])) == (2, 10, 1)
    found = deployment.call("find_unembedded")
    (batch,) = found["batches"]
    assert batch["s3_bucket"] == deployment.bucket
    assert batch["s3_key"].endswith("/input.jsonl")
    assert found == {"batches": [batch], "total_lines": batch["line_count"], "batch_count": 1}
    # Gathered, but not submitted: a call that was killed before it could answer is repeated.
    assert deployment.call("find_unembedded") == found
    submitted = deployment.call("submit_openai", batch)
    assert set(submitted) == {"batch_id", "openai_batch_id", "status"}
    assert deployment.call("submit_openai", batch) == submitted
    assert deployment.call("find_unembedded") == {"batches": [], "total_lines": 0, "batch_count": 0}
    (pending,) = deployment.call("list_pending")
    assert pending == {name: submitted[name] for name in ("batch_id", "openai_batch_id")}
    polled = poll_until_ended(deployment, pending)
    assert (polled["status"], polled["action"], polled["embedding_count"]) == (
        "completed",
        "process_results",
        10,
    )
    assert (polled["collection"], polled["database"], polled["storage"]) == ("lines", "lines", "s3_delta")
    assert polled["delta_key"] == f"lines/delta/{polled['delta_id']}/delta.arrow"
    assert deployment.contents().total == 0  # polling leaves the commit to compaction
    compacted = deployment.call("compaction")
    assert compacted["status"] == "compacted"
    assert {name: each["rows"] for name, each in compacted["collections"].items()} == {"lines": 3, "words": 7}
    assert deployment.contents().total == 10
    assert deployment.call("list_pending") == []
    # An ended submission is answered as before: by then its delta is committed, so none is named.
    again = deployment.call("line_polling", {**pending, "skip_sqs_notification": True})
    assert (again["status"], again["embedding_count"], "delta_id" in again) == ("completed", 0, False)
    assert deployment.call("compaction") == {"status": "compacted", "collections": {}}
    assert provider.billed_again() == {}


def test_find_unembedded_of_a_batch_type_gathers_only_its_collection(deployment: Deployment) -> None:
    deployment.call("data_fetcher")
    (words,) = deployment.call("find_unembedded", {"batch_type": "word"})["batches"]
    assert words["line_count"] == 5  # texts: two words occur twice
    (some,) = deployment.call("find_unembedded", {"batch_type": "line", "limit": 2})["batches"]
    assert some["line_count"] == 2
    for batch in (words, some):
        deployment.call("submit_openai", batch)
    (only,) = deployment.call("list_pending", {"batch_type": "word", "max_batches": 5})
    assert only["batch_id"] in words["s3_key"]
    polled = poll_until_ended(deployment, only, "word_polling")
    assert (polled["collection"], polled["embedding_count"]) == ("words", 7)
    assert list(deployment.call("compaction", {"collection": "lines"})["collections"]) == []
    assert list(deployment.call("compaction", {"collection": "words"})["collections"]) == ["words"]


@pytest.mark.parametrize(
    ("function", "event", "says"),
    [
        ("find_unembedded", {"batch_type": "letter"}, "batch_type has to be line or word, not 'letter'"),
        ("find_unembedded", {"limit": 0}, "limit has to be a whole number of 1 or more, not 0"),
        ("submit_openai", {}, "s3_key has to be a text, not None"),
        ("submit_openai", {"s3_key": "a.json"}, "s3_key has to be one that find_unembedded returned"),
        ("list_pending", {"max_batches": True}, "max_batches has to be a whole number"),
        ("line_polling", {"openai_batch_id": "x"}, "batch_id has to be a text"),
        ("compaction", {"operation": "vacuum"}, "operation has to be process_chunk or final_merge"),
        ("compaction", {"collection": 7}, "collection has to be a text, not 7"),
        ("data_fetcher", {"sources": "receipts"}, "sources has to be a list of names, not 'receipts'"),
        ("list_pending", [1], "the event has to be a JSON object"),
    ],
)
def test_handler_of_a_wrong_event_names_the_field(
    deployment: Deployment, function: str, event: Any, says: str
) -> None:
    with pytest.raises(Rejected, match=says.replace("(", r"\(")):
        deployment.call(function, event)


def test_submit_openai_of_an_unknown_submission_is_not_found(deployment: Deployment) -> None:
    with pytest.raises(NotFound, match="the ledger has no submission x: "):
        deployment.call("submit_openai", {"s3_key": "submissions/x/input.jsonl"})
    with pytest.raises(NotFound, match="the ledger has no submission x: "):
        deployment.call("word_polling", {"batch_id": "x"})
