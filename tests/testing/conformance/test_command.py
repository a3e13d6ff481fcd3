"""`python -m flowbed.testing.conformance`, as users run it."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pytest
from tests.testing.conformance.flawed import KEY, LIMITED, LONG, MODELS, NAME, server, simulator
from tests.testing.conformance.flaws import Flawed, when

from flowbed.testing.conformance import CHECKS, Target, examine
from flowbed.testing.conformance.__main__ import main
from flowbed.testing.conformance.examining import CHECKS as ALL
from flowbed.testing.conformance.records import Check
from flowbed.testing.simulators import Fault, OpenAI, Simulator, running, running_thread

if TYPE_CHECKING:
    from collections.abc import Iterator

    from flowbed.testing.conformance.client import Client


@dataclass(frozen=True)
class Ran:
    returncode: int
    stdout: str
    stderr: str


Command = Callable[..., Ran]


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Command:
    """Give the command, run in this process without the checks that take long."""
    quick = tuple(check for check in CHECKS if check.run not in LONG)
    monkeypatch.setattr("flowbed.testing.conformance.__main__.CHECKS", quick)

    def run(*arguments: str) -> Ran:
        monkeypatch.setattr(sys, "argv", ["conformance", *arguments])
        return Ran(main(), *capsys.readouterr())

    return run


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with running_thread(server(None)) as found:
        yield found


def test_command_conforming_server_prints_a_line_for_each_check(url: str, command: Command) -> None:
    """Each check has a line for each client, the last line counts them, and the status is 0."""
    ran = command(url, "--key", KEY, "--limited-key", LIMITED)
    *lines, last = ran.stdout.splitlines()
    assert (ran.returncode, ran.stderr) == (0, "")
    assert lines.pop() == "absent   vector stores: GET /vector_stores answers 404"
    run = [check for check in CHECKS if check.group != "vector stores" and check.run not in LONG]
    assert len(lines) == 2 * len(run)
    assert {line.split()[0] for line in lines} == {"passed"}
    assert {line.split()[1] for line in lines} == {"sync", "async"}
    assert last == f"{url}/v1, {NAME}: {len(lines)} passed, 0 failed, 0 skipped; not offered: vector stores"


def test_command_as_a_program_prints_the_lines_of_a_group(url: str) -> None:
    program = (sys.executable, "-m", "flowbed.testing.conformance")
    ran = subprocess.run(
        [*program, url, "--key", KEY, "--only", "files"],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert (ran.returncode, ran.stderr) == (0, "")
    of_files = [check for check in CHECKS if check.group == "files"]
    assert f"{2 * len(of_files)} passed, 0 failed, 0 skipped" in ran.stdout.splitlines()[-1]


def test_command_faulty_server_gives_each_reason_as_json(command: Command) -> None:
    """Failed and skipped checks are named with the reason, and the status is 1."""
    faulty = Simulator(OpenAI(models=MODELS), faults=[Fault(kind="wrong_index")])
    with running_thread(faulty) as url:
        ran = command(f"{url}/v1", "--json", "--model", NAME, "--only", "embeddings")
    report: dict[str, Any] = json.loads(ran.stdout)
    assert ran.returncode == 1
    assert (report["url"], report["model"]) == (f"{url}/v1", NAME)
    for verdict in ("passed", "failed", "skipped"):
        outcomes = [each for each in report["checks"] if each["verdict"] == verdict]
        assert report[verdict] == len(outcomes) > 0
        assert all(each["reason"] for each in outcomes) or verdict == "passed"


@pytest.mark.parametrize(("paths", "absent"), [("files", {"files", "batches"}), ("batches", {"batches"})])
def test_command_groups_not_offered_are_reported_as_absent(
    paths: str, absent: set[str], command: Command
) -> None:
    """A server without files, or without batches, conforms if all else does."""
    with running_thread(Flawed(server(None), when(lambda asked: paths in asked.path, 404))) as url:
        arguments = (url, "--key", KEY, "--only", "files", "--only", "batches")
        lines, as_json = command(*arguments), command(*arguments, "--json")
        alone = command(url, "--key", KEY, "--only", "batches")
    report: dict[str, Any] = json.loads(as_json.stdout)
    assert set(report["absent"]) == absent
    assert {each["group"] for each in report["checks"]} == {"files", "batches"} - absent
    assert report["failed"] == report["skipped"] == 0
    assert as_json.returncode == lines.returncode == (0 if report["passed"] else 1)
    assert lines.stdout.endswith(f"not offered: {', '.join(report['absent'])}\n")
    assert f"absent   batches: GET /{paths} answers 404" in lines.stdout.splitlines()
    assert alone.returncode == 1  # nothing could be examined


def test_command_without_server_or_model_says_so(command: Command) -> None:
    """The status is 2, which is no verdict."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # and does not listen
        nobody = command(f"http://127.0.0.1:{taken.getsockname()[1]}")
    with running_thread(Simulator(OpenAI(models={}))) as url:
        empty = command(url)
    assert (nobody.returncode, empty.returncode) == (2, 2)
    assert "does not answer" in nobody.stderr
    assert "--model" in empty.stderr


def test_checks_have_one_sentence_each_and_no_two_the_same() -> None:
    sentences = [check.sentence for check in ALL]
    assert all(20 < len(sentence) < 120 for sentence in sentences)
    assert all(sentence[0].isupper() or sentence[0] == "`" for sentence in sentences)
    assert len(set(sentences)) == len(sentences)


async def test_check_without_request_or_requirement_fails() -> None:

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
