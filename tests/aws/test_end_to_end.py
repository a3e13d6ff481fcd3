"""Receipts through machines and events, in real functions with roles: the index equals that of a local run."""

from __future__ import annotations

import json
import time
from collections import Counter
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest
from tests.support.aws.bad_hour import bad_hour
from tests.support.aws.deployment import (
    BUCKET,
    PATIENCE,
    connect,
    deploy,
    local_contents,
    settings_of,
    write_receipts,
)
from tests.support.aws.events import s3_event
from tests.support.aws.forked_functions import PROGRAM
from tests.support.processes.preloaded import ForkServer
from tests.support.publishing import difference

from flowbed.bed import Flowbed
from flowbed.errors import NotFound
from flowbed.testing.index import assert_same
from flowbed.testing.s3proxy import S3Proxy

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.support.aws.functions import Functions

    from flowbed.testing.aws import Emulator
    from flowbed.testing.simulators import SimulatorProcess


@pytest.fixture
def server() -> Iterator[str]:
    """Start functions as forks, since a dozen of them start in each test."""
    with ForkServer(PROGRAM) as running:
        yield running.path


def poll_all(functions: Functions) -> None:
    """Run poll-store until no submission is pending."""
    for _ in range(20):
        polled = functions.execute("poll-store")
        assert polled["status"] == "SUCCEEDED", polled
        if not json.loads(polled["output"])["pending_batches"]:
            return
    raise AssertionError(polled)


@pytest.mark.long
@pytest.mark.timeout(3_600)
def test_many_receipts_through_machines_and_events_equal_a_local_run(
    emulator: Emulator, data: Path, tmp_path: Path, provider: SimulatorProcess, server: str
) -> None:
    """One source takes the realtime machine, one the batch lane, and one the event flow.

    The first has some 5,000 lines and words, the other two together half as many. No line or word is paid for twice;
    calls that embed the same text of several at the same time each pay for it, since they share no cache.
    """
    numbers = {"now": 32, "receipts": 8, "more": 8}
    write_receipts(data, tmp_path, **numbers)
    settings = settings_of(provider, tmp_path, list(numbers))
    local = local_contents(tmp_path / "local", settings)
    provider.forget()
    running = deploy(emulator, tmp_path, settings, page=20, server=server)
    functions = running.functions

    def fetch(source: str) -> int:
        """Fetch a source, and return how many lines and words it has."""
        fetched = functions.invoke("data_fetcher", {"sources": [source]})["sources"][source]
        assert fetched["fetched"] == numbers[source]
        return int(fetched["chunks"])

    total = fetch("now")
    assert total >= 5_000
    assert functions.execute("realtime")["status"] == "SUCCEEDED"
    assert set(functions.executions("realtime", patience=2 * PATIENCE)) == {"SUCCEEDED"}
    functions.invoke("compaction")
    assert running.contents().total == total
    total += fetch("receipts")
    assert functions.execute("create-batches")["status"] == "SUCCEEDED"
    poll_all(functions)
    assert running.contents().total == total
    connect(running)
    total += fetch("more")
    assert_same(running.wait_for(total), local)
    for collection, rows in local.rows.items():
        assert difference(running.publish(collection, tmp_path / "pulled"), rows) == ""
    having = Counter(row.document for each in local.rows.values() for row in each.values())
    assert {text: times for text, times in provider.billed_again().items() if times >= having[text]} == {}
    assert running.work(lambda bed: bed.doctor()).findings == ()


KILLED = {
    "find_unembedded": "submission.recorded",
    "submit_openai": "job.made",
    "line_polling": "delta.written",
    "compaction": "index.merged",
    "embedder": "vectors.kept",
}


def test_deployment_each_function_killed_ends_with_the_index_of_a_local_run(
    emulator: Emulator, data: Path, tmp_path: Path, provider: SimulatorProcess, server: str
) -> None:
    """One source takes the batch lane, the other the event flow. Each function dies once, where state just changed.

    Machines and queues repeat it: nothing is lost or doubled, and the doctor finds nothing. Only what the embedder had
    in flight is paid for again, once.
    """
    write_receipts(data, tmp_path, receipts=1, more=1, lines=30)
    settings = settings_of(provider, tmp_path)
    local = local_contents(tmp_path / "local", settings)
    provider.forget()
    marks = tmp_path / "marks"
    marks.mkdir()
    variables = {
        "RUNTIME": "tests.support.aws.lambda_runtime",
        "CLAIM_SECONDS": "3",
        "KILL_MARKS": str(marks),
    }
    running = deploy(
        emulator, tmp_path, settings, variables=variables, kill_at=KILLED, visibility=10, server=server
    )
    functions = running.functions
    functions.invoke("data_fetcher", {"sources": ["receipts"]})
    for _ in range(20):
        assert functions.execute("create-batches")["status"] == "SUCCEEDED"
        poll_all(functions)
        if running.contents().total:
            break
    connect(running)
    functions.invoke("data_fetcher", {"sources": ["more"]})
    assert_same(running.wait_for(local.total), local)
    of_events = {
        row.document
        for rows in local.rows.values()
        for row in rows.values()
        if row.metadata["source"] == "more"
    }
    again = provider.billed_again()
    assert set(again) <= of_events
    assert set(again.values()) <= {1}
    assert {each.name.split(".")[3] for each in marks.iterdir()} == set(KILLED)
    assert running.work(lambda bed: bed.doctor()).findings == ()


def until_answered(functions: Functions, name: str) -> Any:
    """Call a function as its schedule does: again, where a service failed."""
    for _ in range(20):
        try:
            return functions.invoke(name)
        except RuntimeError as error:
            if json.loads(str(error))["errorType"] not in {"Transient", "Conflict"}:
                raise
    raise AssertionError(name)


@pytest.mark.long
@pytest.mark.timeout(1_800)
def test_deployment_with_faults_kills_and_duplicates_equals_a_local_run(
    emulator: Emulator, data: Path, tmp_path: Path, provider: SimulatorProcess, server: str
) -> None:
    """All at once: services that throttle and deny, functions that die, doubled events, and a poison batch.

    The poison ends in the dead letters of its queue, `flowbed why` finds it, and the rest is as in a local run.
    """
    write_receipts(data, tmp_path, receipts=2, more=2)
    settings = settings_of(provider, tmp_path)
    local = local_contents(tmp_path / "local", settings)
    marks = tmp_path / "marks"
    marks.mkdir()
    with S3Proxy(emulator.url, seed=5) as proxy:
        variables = {
            "RUNTIME": "tests.support.aws.lambda_runtime",
            "CLAIM_SECONDS": "3",
            "KILL_MARKS": str(marks),
            "PROXY": proxy.url,
        }
        running = deploy(
            emulator, tmp_path, settings, variables=variables, kill_at=KILLED, visibility=20, server=server
        )
        functions, (queue, _) = running.functions, running.queues["batches"]
        sqs, s3 = functions.client("sqs"), functions.client("s3")
        connect(running)
        proxy.order(*bad_hour(f"{BUCKET}*"))
        bad = "partner/chunked/year=2026/month=01/day=06/bad.json"
        s3.put_object(Bucket=BUCKET, Key=f"index/{bad}", Body=b'{"chunks": 7}')
        poison = sqs.send_message(QueueUrl=queue, MessageBody='{"hello": 1}')["MessageId"]
        until_answered(functions, "data_fetcher")
        for page in s3.get_paginator("list_objects_v2").paginate(Bucket=BUCKET, Prefix="index/"):
            for each in page.get("Contents", ()):
                if "/chunked/" in each["Key"]:
                    sqs.send_message(QueueUrl=queue, MessageBody=json.dumps(s3_event(BUCKET, each["Key"])))
        deadline = time.monotonic() + 2 * PATIENCE
        while running.contents().total < local.total:
            assert time.monotonic() < deadline, running.contents().total
            functions.execute("create-batches")
            functions.execute("poll-store")
        assert proxy.struck > 10
        proxy.order()
        dead = sqs.get_queue_url(QueueName="batches-dead")["QueueUrl"]
        name = "ApproximateNumberOfMessages"
        while int(sqs.get_queue_attributes(QueueUrl=dead, AttributeNames=[name])["Attributes"][name]) < 2:
            assert time.monotonic() < deadline
            time.sleep(1)
    assert_same(running.contents(), local)
    for subject in (poison, bad):
        with pytest.raises(NotFound, match="failed: "):
            running.work(partial(Flowbed.why, subject=subject))
    findings = running.work(lambda bed: bed.doctor()).findings
    assert {each.subject for each in findings} <= {poison}
    assert any(marks.iterdir())
