"""A short form of `make torture`: processes killed at random moments, and many that work on one project at once."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent.parent


def torture(*arguments: str) -> None:
    """Run it, and fail with its output, which names the seed and the command that repeats it."""
    ended = subprocess.run(
        [sys.executable, "-m", "torture", *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr


@pytest.mark.parametrize(("store", "kills"), [("file", 8), ("s3", 3)])
def test_commands_killed_at_random_moments_end_in_the_same_index(store: str, kills: int) -> None:
    """Repeated after each kill, they pay for nothing else."""
    torture("kills", "--store", store, "--kills", str(kills), "--seed", "1")


def test_concurrent_fetches_and_commits_give_only_correct_searches() -> None:
    """While two processes fetch and two commit, what two others find is never missing, stale, partial or wrong."""
    torture("load", "--seconds", "2", "--processes", "2")


@pytest.mark.parametrize(("store", "kills"), [("file", 2), pytest.param("s3", 2, marks=pytest.mark.long)])
def test_publications_killed_at_random_moments_leave_the_last_good_snapshot(store: str, kills: int) -> None:
    """A plain client finds the rows of the index in the end."""
    torture("publishing", "--store", store, "--kills", str(kills), "--seed", "1", "--at-once", "1")


def test_publishers_readers_and_a_collector_at_once_give_no_wrong_answer() -> None:
    """Every snapshot that is pulled is whole, equals its version of the index, and is no older than the last one."""
    torture("crowd", "--seconds", "4", "--processes", "4")


def test_submission_steps_killed_at_random_moments_pay_for_no_text_twice() -> None:
    """Several work at once, and the index is that of an undisturbed project."""
    torture("submissions", "--store", "file", "--kills", "4", "--seed", "1")
