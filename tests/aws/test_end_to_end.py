"""Receipts through machines and events, in real functions with roles: the index equals that of a local run."""

from __future__ import annotations

import importlib.util
import json
from typing import TYPE_CHECKING, NoReturn

import pytest
from tests.support.aws_deployment import connect, deploy, local_contents, settings_of, write_receipts

from flowbed.testing.aws import Emulator
from flowbed.testing.index import assert_same

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from tests.support.aws_functions import Functions

    from flowbed.testing.simulators import SimulatorProcess


@pytest.fixture
def emulator(lacking: Callable[[str], NoReturn], monkeypatch: pytest.MonkeyPatch) -> Iterator[Emulator]:
    """Start an emulator that asks for roles, and let this process be its root."""
    for package in ("ministack", "awslambdaric"):
        if not importlib.util.find_spec(package):
            lacking(f"no {package}: make setup")
    with Emulator(auth=True) as running:
        for name, value in running.variables().items():
            monkeypatch.setenv(name, value)
        yield running


def poll_all(functions: Functions) -> None:
    """Run poll-store until no submission is pending."""
    for _ in range(20):
        polled = functions.execute("poll-store")
        assert polled["status"] == "SUCCEEDED", polled
        if not json.loads(polled["output"])["pending_batches"]:
            return
    raise AssertionError(polled)


def through_both_lanes(
    emulator: Emulator, data: Path, folder: Path, provider: SimulatorProcess, *, first: int, more: int
) -> None:
    """Send one source through the batch lane and the other through the event flow, and compare with a local run."""
    write_receipts(data, folder, first=first, more=more)
    settings = settings_of(provider, folder)
    local = local_contents(folder / "local", settings)
    provider.forget()
    running = deploy(emulator, folder, settings)
    functions = running.functions
    fetched = functions.invoke("data_fetcher", {"sources": ["receipts"]})["sources"]["receipts"]
    assert fetched["fetched"] == first
    assert functions.execute("create-batches")["status"] == "SUCCEEDED"
    poll_all(functions)
    assert running.contents().total == fetched["chunks"]
    connect(running)
    functions.invoke("data_fetcher", {"sources": ["more"]})
    assert_same(running.wait_for(local.total), local)
    assert provider.billed_again() == {}
    assert running.work(lambda bed: bed.doctor()).findings == ()


def test_receipts_through_machines_and_events_equal_a_local_run(
    emulator: Emulator, data: Path, tmp_path: Path, provider: SimulatorProcess
) -> None:
    """Some 300 lines and words; the doctor finds nothing."""
    through_both_lanes(emulator, data, tmp_path, provider, first=1, more=1)


@pytest.mark.long
def test_many_receipts_through_machines_and_events_equal_a_local_run(
    emulator: Emulator, data: Path, tmp_path: Path, provider: SimulatorProcess
) -> None:
    """Some 5,000 lines and words."""
    through_both_lanes(emulator, data, tmp_path, provider, first=20, more=12)


KILLED = {
    "find_unembedded": "submission.recorded",
    "submit_openai": "job.made",
    "line_polling": "delta.written",
    "compaction": "index.merged",
    "embedder": "vectors.kept",
}


def test_functions_that_are_killed_lose_and_double_nothing(
    emulator: Emulator, data: Path, tmp_path: Path, provider: SimulatorProcess
) -> None:
    """Each function dies once, where its state has just changed; machines and queues repeat it."""
    write_receipts(data, tmp_path, first=1, more=1, lines=6)
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
    assert {each.name.split(".")[3] for each in marks.iterdir()} == set(KILLED)
    assert running.work(lambda bed: bed.doctor()).findings == ()
