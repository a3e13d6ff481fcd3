"""Claims end with the call that made them: a function may be frozen once it has answered."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest
from tests.support.aws.events import s3_event, sqs_event

from flowbed.errors import Transient
from flowbed.testing.simulators import Fault

if TYPE_CHECKING:
    from tests.aws.conftest import Deployment

    from flowbed.testing.simulators import SimulatorProcess


def test_function_holds_no_claim_when_it_has_answered_or_failed(
    deployment: Deployment, provider: SimulatorProcess, quick_polls: None
) -> None:
    """Each step works at once with what the one before gave back, whether that succeeded or not."""

    def held() -> set[str]:
        workers: set[str] = deployment.use(lambda bed: bed.ledger.chunks.workers())
        return workers

    (key,) = deployment.call("data_fetcher")["sources"]["receipts"]["batches"]
    provider.order(Fault(kind="error", status=503))
    with pytest.raises(Transient):
        deployment.call("process_receipt_realtime", {"image_id": "image-1", "receipt_id": 1})
    assert held() == set()
    event = sqs_event([{"Body": json.dumps(s3_event(deployment.bucket, f"index/{key}"))}])
    assert deployment.call("embedder", event)["batchItemFailures"]
    assert held() == set()
    provider.order()
    found = deployment.call("find_unembedded", {"limit": 2})
    assert (found["total_lines"], held()) == (2, set())
    deployment.call("submit_openai", found["batches"][0])
    assert held() == set()
    done = deployment.call("embedder", event)
    assert (done, held()) == ({"batchItemFailures": []}, set())
    for _ in range(100):
        pending = deployment.call("list_pending")
        if not pending:
            break
        deployment.call("line_polling", {**pending[0], "skip_sqs_notification": True})
    assert held() == set()
    deployment.call("compaction")
    assert deployment.contents().total == 10
