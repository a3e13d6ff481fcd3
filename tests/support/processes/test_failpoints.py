"""Killing a process at a named point."""

from __future__ import annotations

import subprocess
import sys

import pytest
from tests.support.processes.failpoints import kill_at

from flowbed import telemetry


@pytest.mark.parametrize(("nth", "survived"), [(1, 0), (3, 2)])
def test_failpoint_reached_the_nth_time_kills_the_process(nth: int, survived: int) -> None:
    """Earlier times and other points do not."""
    code = (
        "from flowbed import telemetry\nfrom tests.support.processes.failpoints import kill_at\n"
        f"kill_at(telemetry.DELTA_WRITTEN, {nth})\nfor step in range(5):\n    telemetry.reached('another')\n"
        "    telemetry.reached(telemetry.DELTA_WRITTEN, run='r')\n    print(step, flush=True)"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert ran.returncode == -9
    assert len(ran.stdout.split()) == survived


def test_failpoint_disarmed_does_not_kill() -> None:
    """After disarming, the point can be reached."""
    kill_at(telemetry.RUN_COMMITTED)()
    telemetry.reached(telemetry.RUN_COMMITTED)


@pytest.mark.parametrize(
    "arguments", [["delta.written"], ["nonsense", "--", "run"], ["delta.written:x", "--", "run"]]
)
def test_failpoints_unknown_point_is_a_usage_error(arguments: list[str]) -> None:
    """A misspelt point would never be reached and prove nothing, so the error lists the points."""
    ran = subprocess.run(
        [sys.executable, "-m", "tests.support.processes.failpoints", *arguments],
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 2
    assert "usage" in ran.stderr


def test_failpoints_runs_the_flowbed_command() -> None:
    """What follows `--` is run as the `flowbed` command."""
    ran = subprocess.run(
        [sys.executable, "-m", "tests.support.processes.failpoints", "run.committed:2", "--", "--help"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    assert "search" in ran.stdout
