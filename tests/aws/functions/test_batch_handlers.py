"""The functions of the batch lane: their answers, and that a repeated or killed call loses nothing."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from tests.support.aws.events import sqs_event

from flowbed.errors import Misconfigured, NotFound, Rejected, Transient
from flowbed.testing.simulators import Fault

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
        (
            "data_fetcher",
            {"sources": ["receipts", "\ud83d"]},
            r"sources has '\\ud83d', which holds a NUL or half of a character",
        ),
        ("list_pending", [1], "the event has to be a JSON object"),
        ("compaction", {"Records": None}, "Records has to be the list of a queue's messages, not None"),
        ("compaction", {"Records": [7]}, "Records has to be the list of a queue's messages"),
        (
            "find_receipts_realtime",
            {"filter_by_embedding_status": ["NONE"]},
            "filter_by_embedding_status has",
        ),
        (
            "find_receipts_realtime",
            {"last_evaluated_key": {"timestamp": float("inf"), "batch": "", "document": ""}},
            "last_evaluated_key has to be what find_receipts_realtime returned",
        ),
    ],
)
def test_handler_of_a_wrong_event_names_the_field(
    deployment: Deployment, function: str, event: Any, says: str
) -> None:
    with pytest.raises(Rejected, match=says.replace("(", r"\(")):
        deployment.call(function, event)


def test_handler_of_an_id_with_half_a_character_logs_and_raises_its_own_error(deployment: Deployment) -> None:
    """JSON has escapes for what UTF-8 has not: the line of the log keeps them."""
    with pytest.raises(NotFound, match="the ledger has no submission"):
        deployment.call("line_polling", {"batch_id": "\ud83d"})
    (line,) = [each for each in deployment.lines if each.get("level") == "ERROR"]
    assert "the ledger has no submission \ud83d" in line["message"]


def test_submit_openai_of_an_unknown_submission_is_not_found(deployment: Deployment) -> None:
    with pytest.raises(NotFound, match="the ledger has no submission x: "):
        deployment.call("submit_openai", {"s3_key": "submissions/x/input.jsonl"})
    with pytest.raises(NotFound, match="the ledger has no submission x: "):
        deployment.call("word_polling", {"batch_id": "x"})


def gathered(deployment: Deployment) -> dict[str, Any]:
    """Fetch, gather one submission, and return it as the state machine passes it on."""
    deployment.call("data_fetcher")
    (batch,) = deployment.call("find_unembedded")["batches"]
    return dict(batch)


def test_submit_openai_provider_throttled_raises_transient_and_submits_once(
    deployment: Deployment, provider: SimulatorProcess, quick_polls: None
) -> None:
    """The state machine repeats it; an upload whose answer was lost is found again."""
    batch = gathered(deployment)
    provider.order(Fault(kind="rate_limited", path="/v1/batches", retry_after=0.01))
    with pytest.raises(Transient, match="answered 429"):
        deployment.call("submit_openai", batch)
    provider.order(Fault(kind="cut", path="/v1/batches", calls=(1,)))
    submitted = deployment.call("submit_openai", batch)
    assert submitted["status"] == "submitted"
    poll_until_ended(deployment, submitted)
    deployment.call("compaction")
    assert deployment.contents().total == 10
    assert provider.billed_again() == {}


def test_submit_openai_with_a_wrong_key_raises_misconfigured(
    deployment: Deployment, provider: SimulatorProcess
) -> None:
    """No Retry names it; once the key is right, the same event submits it."""
    batch = gathered(deployment)
    provider.order(Fault(kind="error", status=401))
    with pytest.raises(Misconfigured, match="answered 401"):
        deployment.call("submit_openai", batch)
    provider.order()
    assert deployment.call("submit_openai", batch)["status"] == "submitted"


def test_poison_texts_of_a_batch_are_dead_letters_and_the_rest_is_committed(
    deployment: Deployment, provider: SimulatorProcess
) -> None:
    provider.order(Fault(kind="failed_lines", status=400, text="CASH"))
    polled = poll_until_ended(deployment, deployment.call("submit_openai", gathered(deployment)))
    assert (polled["action"], polled["embedding_count"]) == ("process_partial", 8)
    deployment.call("compaction")
    assert deployment.contents().total == 8
    letters = deployment.use(lambda bed: bed.dead_letters())
    assert {each.subject for each in letters} == {
        "IMAGE#image-1#RECEIPT#00001#LINE#00002",
        "IMAGE#image-1#RECEIPT#00001#LINE#00002#WORD#00004",
    }
    # Not gathered again until someone says so.
    assert deployment.call("find_unembedded")["batch_count"] == 0


def test_job_that_the_provider_refuses_is_a_failure_with_dead_letters(
    deployment: Deployment, provider: SimulatorProcess
) -> None:
    provider.order(Fault(kind="validation"))
    polled = poll_until_ended(deployment, deployment.call("submit_openai", gathered(deployment)))
    assert (polled["action"], polled["batch_status"], "delta_id" in polled) == (
        "handle_failure",
        "failed",
        False,
    )
    assert deployment.use(lambda bed: bed.dead_letters())


def test_cancelled_submission_is_handled_and_its_texts_wait_again(
    deployment: Deployment, provider: SimulatorProcess
) -> None:
    provider.order(Fault(kind="stuck"))
    submitted = deployment.call("submit_openai", gathered(deployment))
    assert deployment.call("line_polling", submitted)["action"] == "wait"
    deployment.use(lambda bed: bed.cancel_submission(submitted["batch_id"]))
    assert poll_until_ended(deployment, submitted)["action"] == "handle_cancellation"
    provider.order()
    assert deployment.call("find_unembedded")["total_lines"] == 8


def test_polling_tells_the_queue_of_each_delta(
    deployment: Deployment, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A FIFO queue gets a group for each collection."""
    name = {"FifoQueue": "true", "ContentBasedDeduplication": "false"}
    queue = deployment.queue("compaction.fifo", **name)
    monkeypatch.setenv("COMPACTION_QUEUE_URL", queue)
    submitted = deployment.call("submit_openai", gathered(deployment))
    for _ in range(100):
        polled = deployment.call("word_polling", submitted)
        if polled["action"] != "wait":
            break
    assert [each["collection"] for each in polled["deltas"]] == ["words", "lines"]
    messages = deployment.received(queue)
    assert len(messages) == 2
    assert deployment.call("compaction", sqs_event(messages)) == {"batchItemFailures": []}
    assert deployment.contents().total == 10
