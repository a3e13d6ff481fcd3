"""`flowbed simulate` as a process."""

from __future__ import annotations

import asyncio
import json
import signal
import socket
import subprocess
import sys
import tomllib
import urllib.error
import urllib.request
from contextlib import contextmanager
from typing import IO, TYPE_CHECKING, Any

import openai
import pytest

from flowbed.sources import open_source
from flowbed.testing.clock import FixedClock
from flowbed.testing.sources import entries, pages

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from tests.cli.conftest import Called


@contextmanager
def simulating(*arguments: str) -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen(
        [sys.executable, "-m", "flowbed", "simulate", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def output(stream: IO[str] | None) -> IO[str]:
    assert stream is not None
    return stream


def ask(url: str, said: dict[str, Any]) -> int:
    request = urllib.request.Request(  # noqa: S310 - our own http address
        url, data=json.dumps(said).encode(), headers={"Authorization": "Bearer simulated"}
    )
    try:
        with urllib.request.urlopen(request) as answer:  # noqa: S310
            assert answer.headers["X-Flowbed-Simulator"] == "1"
            return int(answer.status)
    except urllib.error.HTTPError as error:
        error.close()
        return error.code


@pytest.mark.parametrize("way", [signal.SIGINT, signal.SIGTERM])
def test_simulate_serves_until_a_signal_and_exits_0(way: signal.Signals) -> None:
    """Faults and limits are in force."""
    line = "rate_limited,calls=1,retry_after=1"
    with simulating("--provider", "openai", "--fault", line, "--tokens", "5", "--json") as process:
        told = json.loads(output(process.stdout).readline())["simulators"]["openai"]
        assert told["model"] == "openai:text-embedding-3-small"
        address, said = f"{told['options']['base_url']}/embeddings", {"model": "text-embedding-3-small"}
        statuses = [ask(address, {**said, "input": "a b c"}) for _ in range(3)]
        process.send_signal(way)
        assert process.wait() == 0
    assert statuses == [429, 200, 429]


def test_simulate_prints_lines_for_flowbed_toml() -> None:
    with simulating("--provider", "voyage", "--provider", "cohere") as process:
        assert "Ctrl-C" in output(process.stderr).readline()
        process.send_signal(signal.SIGINT)
        lines, _ = process.communicate()
    providers = tomllib.loads(lines)["providers"]
    assert set(providers) == {"voyage", "cohere"}
    assert providers["voyage"]["base_url"].startswith("http://127.0.0.1:")
    assert '# model = "cohere:embed-v4.0"' in lines


def test_simulate_batch_options_set_time_and_queue() -> None:
    options = ("--batch-seconds", "3600", "--queue-tokens", "3", "--fault", "shuffled,calls=9")
    line = {
        "custom_id": "a",
        "method": "POST",
        "url": "/v1/embeddings",
        "body": {"model": "text-embedding-3-small", "input": "a b"},
    }
    with simulating("--provider", "openai", "--provider", "voyage", *options, "--json") as process:
        told = json.loads(output(process.stdout).readline())["simulators"]["openai"]
        with openai.OpenAI(base_url=told["options"]["base_url"], api_key="simulated") as client:
            file = client.files.create(file=("input.jsonl", json.dumps(line).encode()), purpose="batch")
            made = [
                client.batches.create(
                    input_file_id=file.id, endpoint="/v1/embeddings", completion_window="24h"
                )
                for _ in range(2)
            ]
            later = urllib.request.Request(  # noqa: S310 - our own http address
                f"{told['url']}/_simulator/time", data=b'{"seconds": 1800}'
            )
            urllib.request.urlopen(later).close()  # noqa: S310
            assert [client.batches.retrieve(job.id).status for job in made] == ["in_progress", "failed"]


def test_simulate_gitlab_can_be_added_and_changed(tmp_path: Path) -> None:
    """The location that is printed is that of a project with issues, which a request changes."""
    with simulating("--provider", "gitlab", "--json") as process:
        told = json.loads(output(process.stdout).readline())["simulators"]["gitlab"]
        change = {"do": "note", "kind": "issues", "iid": 1, "body": "Fixed in the next version."}
        assert ask(f"{told['url']}/_simulator/do", change) == 200
        assert ask(f"{told['url']}/_simulator/do", {"do": "burn"}) == 400
        source = open_source("gitlab", told["location"], folder=tmp_path, options={}, clock=FixedClock())
        found = {entry.document: entry.read() for entry in entries(asyncio.run(pages(source)))}
    assert set(found) == {"7#1", "7!1", "7/wikis/home"}
    assert "Fixed in the next version." in found["7#1"].text


def test_simulate_slack_can_be_added_and_changed(tmp_path: Path) -> None:
    """The location that is printed is that of a workspace, in which a request posts a reply."""
    with simulating("--provider", "slack", "--json") as process:
        told = json.loads(output(process.stdout).readline())["simulators"]["slack"]
        change = {"do": "post", "channel": "C1", "text": "Look at the log first."}
        assert ask(f"{told['url']}/_simulator/do", change) == 200
        assert ask(f"{told['url']}/_simulator/do", {"do": "advance", "seconds": 3_600}) == 200
        assert ask(f"{told['url']}/_simulator/do", {"do": "burn"}) == 400
        source = open_source(
            "slack",
            told["location"],
            folder=tmp_path,
            options={},
            clock=FixedClock(),
            token="any",  # noqa: S106 - any will do
        )
        found = {entry.document: entry.read() for entry in entries(asyncio.run(pages(source)))}
    assert "C1/t/1767600000.000001" in found
    assert "Look at the log first." in found["C1/d/2026-01-05"].text


def test_simulate_google_places_names_merchants_that_receipts_lack(tmp_path: Path) -> None:
    """The options that are printed are those of a source of receipts; a request adds a place."""
    lines = [{"line_id": 1, "text": "HARBOUR BOOKS"}, {"line_id": 2, "text": "9 HARBOUR STREET, WESTCLIFFE"}]
    receipt = {"image_id": "i", "receipt_id": 1, "lines": lines}
    (tmp_path / "receipts.jsonl").write_text(json.dumps(receipt) + "\n")
    with simulating("--provider", "google_places", "--json") as process:
        told = json.loads(output(process.stdout).readline())["simulators"]["google_places"]
        place = {"do": "add", "name": "Harbour Books", "address": "9 Harbour Street, Westcliffe"}
        assert ask(f"{told['url']}/_simulator/do", place) == 200
        assert ask(f"{told['url']}/_simulator/do", {"do": "fail", "fault": "storms"}) == 400
        source = open_source(
            told["kind"],
            told["location"],
            folder=tmp_path,
            options=told["options"],
            clock=FixedClock(),
            token="simulated",  # noqa: S106 - of the simulator
        )
        (entry,) = entries(asyncio.run(pages(source)))
    assert entry.read().metadata["merchant_name"] == "Harbour Books"


def test_simulate_sources_print_lines_for_flowbed_toml() -> None:
    named = [
        each
        for name in ("gitlab", "slack", "discord", "backlog", "google_places", "cohere")
        for each in ("--provider", name)
    ]
    with simulating(*named) as process:
        assert "Ctrl-C" in output(process.stderr).readline()
        process.send_signal(signal.SIGINT)
        lines, _ = process.communicate()
    tables = tomllib.loads(lines)
    assert {name: each["kind"] for name, each in tables["sources"].items()} == {
        "tracker": "gitlab",
        "team": "slack",
        "chat": "discord",
        "tasks": "backlog",
        "receipts": "receipts",
    }
    assert tables["sources"]["receipts"]["options"]["places"] is True
    assert "export SLACK_TOKEN=" in lines
    assert set(tables["providers"]) == {"cohere"}


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        (["--provider", "nobody"], "no simulator of 'nobody'"),
        (["--provider", "openai", "--provider", "azure"], "one provider in flowbed.toml"),
        (["--fault", "late"], "no fault is called 'late'"),
        (["--fault", "wrong_index"], "answers without an index"),
        (["--provider", "azure", "--fault", "expired"], "no jobs"),
    ],
)
def test_simulate_invalid_options_are_usage_errors(
    flowbed: Callable[..., Called], arguments: list[str], why: str
) -> None:
    called = flowbed("simulate", *arguments)
    assert called.status == 2
    assert why in called.err


def test_simulate_port_in_use_names_the_port_and_the_option(flowbed: Callable[..., Called]) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        called = flowbed("simulate", "--provider", "openai", "--port", str(port))
    assert called.status == 2
    assert f"port {port}" in called.err
    assert "--port" in called.err
