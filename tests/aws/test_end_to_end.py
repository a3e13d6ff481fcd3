"""Receipts through machines and events, in real functions with roles: the index equals that of a local run."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest
from tests.support.aws_deployment import connect, deploy, local_contents, settings_of, write_receipts

from flowbed.testing.index import assert_same

if TYPE_CHECKING:
    from pathlib import Path

    from tests.support.aws_functions import Functions

    from flowbed.testing.aws import Emulator
    from flowbed.testing.simulators import SimulatorProcess


def poll_all(functions: Functions) -> None:
    """Run poll-store until no submission is pending."""
    for _ in range(20):
        polled = functions.execute("poll-store")
        assert polled["status"] == "SUCCEEDED", polled
        if not json.loads(polled["output"])["pending_batches"]:
            return
    raise AssertionError(polled)


@pytest.mark.long
@pytest.mark.timeout(1_800)
def test_many_receipts_through_machines_and_events_equal_a_local_run(
    emulator: Emulator, data: Path, tmp_path: Path, provider: SimulatorProcess
) -> None:
    """Some 5,000 lines and words: one source takes the batch lane, the other the event flow."""
    write_receipts(data, tmp_path, first=20, more=12)
    settings = settings_of(provider, tmp_path)
    local = local_contents(tmp_path / "local", settings)
    assert local.total >= 5_000
    provider.forget()
    running = deploy(emulator, tmp_path, settings)
    functions = running.functions
    fetched = functions.invoke("data_fetcher", {"sources": ["receipts"]})["sources"]["receipts"]
    assert fetched["fetched"] == 20
    assert functions.execute("create-batches")["status"] == "SUCCEEDED"
    poll_all(functions)
    assert running.contents().total == fetched["chunks"]
    connect(running)
    functions.invoke("data_fetcher", {"sources": ["more"]})
    assert_same(running.wait_for(local.total), local)
    assert provider.billed_again() == {}
    assert running.work(lambda bed: bed.doctor()).findings == ()


KILLED = {
    "find_unembedded": "submission.recorded",
    "submit_openai": "job.made",
    "line_polling": "delta.written",
    "compaction": "index.merged",
    "embedder": "vectors.kept",
}


def test_deployment_each_function_killed_ends_with_the_index_of_a_local_run(
    emulator: Emulator, data: Path, tmp_path: Path, provider: SimulatorProcess
) -> None:
    """One source takes the batch lane, the other the event flow. Each function dies once, where state just changed.

    Machines and queues repeat it: nothing is lost or doubled, and the doctor finds nothing. Only what the embedder had
    in flight is paid for again, once.
    """
    write_receipts(data, tmp_path, first=1, more=1, lines=30)
    settings = settings_of(provider, tmp_path)
    local = local_contents(tmp_path / "local", settings)
    provider.forget()
    marks = tmp_path / "marks"
    marks.mkdir()
    variables = {"RUNTIME": "tests.support.lambda_runtime", "CLAIM_SECONDS": "3", "KILL_MARKS": str(marks)}
    running = deploy(emulator, tmp_path, settings, variables=variables, kill_at=KILLED, visibility=10)
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
