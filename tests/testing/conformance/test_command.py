"""`python -m flowbed.testing.conformance`, as users run it."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest
from tests.testing.conformance.flawed import KEY, LIMITED, NAME, server, simulator
from tests.testing.conformance.flaws import Flawed, when

from flowbed.testing.conformance import CHECKS, Target, examine
from flowbed.testing.conformance.examining import CHECKS as ALL
from flowbed.testing.conformance.records import Check
from flowbed.testing.simulators import Fault, OpenAI, Simulator, running, running_thread

if TYPE_CHECKING:
    from collections.abc import Iterator

    from flowbed.testing.conformance.client import Client


def command(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "flowbed.testing.conformance", *arguments],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with running_thread(server(None)) as found:
        yield found


def test_a_server_that_conforms_is_told_so(url: str) -> None:
    """Each check has a line for each client, the last line counts them, and the status is 0."""
    done = command(url, "--key", KEY, "--limited-key", LIMITED)
    *lines, last = done.stdout.splitlines()
    assert (done.returncode, done.stderr) == (0, "")
    assert len(lines) == 2 * len(CHECKS)
    assert {line.split()[0] for line in lines} == {"passed"}
    assert {line.split()[1] for line in lines} == {"sync", "async"}
    assert last == f"{url}/v1, {NAME}: {len(lines)} passed, 0 failed, 0 skipped"


def test_one_that_does_not_is_told_where_as_json() -> None:
    """What fails and what is skipped is named with its reason, and the status is 1."""
    faulty = Simulator(OpenAI(), faults=[Fault(kind="wrong_index")])
    with running_thread(faulty) as url:
        done = command(f"{url}/v1", "--json", "--model", NAME)
    report: dict[str, Any] = json.loads(done.stdout)
    assert done.returncode == 1
    assert (report["url"], report["model"]) == (f"{url}/v1", NAME)
    for verdict in ("passed", "failed", "skipped"):
        told = [each for each in report["checks"] if each["verdict"] == verdict]
        assert report[verdict] == len(told) > 0
        assert all(each["reason"] for each in told) or verdict == "passed"


@pytest.mark.parametrize(("paths", "absent"), [("files", {"files", "batches"}), ("batches", {"batches"})])
def test_what_a_server_does_not_offer_is_told_apart(paths: str, absent: set[str]) -> None:
    """A server without files, or without batches, is told so, and conforms if all else does."""
    with running_thread(Flawed(server(None), when(lambda asked: paths in asked.path, 404))) as url:
        said = (url, "--key", KEY, "--only", "files", "--only", "batches")
        lines, told = command(*said), command(*said, "--json")
        alone = command(url, "--key", KEY, "--only", "batches")
    report: dict[str, Any] = json.loads(told.stdout)
    assert set(report["absent"]) == absent
    assert {each["group"] for each in report["checks"]} == {"files", "batches"} - absent
    assert report["failed"] == report["skipped"] == 0
    assert told.returncode == lines.returncode == (0 if report["passed"] else 1)
    assert lines.stdout.endswith(f"not offered: {', '.join(report['absent'])}\n")
    assert f"absent   batches: GET /{paths} answers 404" in lines.stdout.splitlines()
    assert alone.returncode == 1  # where nothing could be examined nothing is known


def test_no_server_and_no_model_are_no_findings() -> None:
    """Where nobody answers, or no model is listed, the message says so and the status is 2."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # and listens to nobody
        nobody = command(f"http://127.0.0.1:{taken.getsockname()[1]}")
    with running_thread(Simulator(OpenAI(models={}))) as url:
        empty = command(url)
    assert (nobody.returncode, empty.returncode) == (2, 2)
    assert "does not answer" in nobody.stderr
    assert "--model" in empty.stderr


def test_every_check_is_one_sentence() -> None:
    """A check says in one sentence what it is about, and no two say the same."""
    sentences = [check.sentence for check in ALL]
    assert all(20 < len(sentence) < 120 for sentence in sentences)
    assert all(sentence[0].isupper() or sentence[0] == "`" for sentence in sentences)
    assert len(set(sentences)) == len(sentences)


async def test_a_check_that_looks_at_nothing_fails() -> None:
    """A check that asks the server nothing, or requires nothing of its answers, has not passed."""

    async def asks_nothing(client: Client) -> None:
        """Ask nothing."""
        client.require(holds=True, reason="")

    async def requires_nothing(client: Client) -> None:
        """Require nothing."""
        await client.send("GET", "/models")

    checks = [Check(asks_nothing), Check(requires_nothing)]
    async with running(simulator()) as url:
        report = await examine(Target(url=f"{url}/v1", key=KEY, model=NAME), kinds=("async",), checks=checks)
    assert [outcome.verdict for outcome in report.outcomes] == ["failed", "failed"]
    assert not report.conforms
