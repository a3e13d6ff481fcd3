"""A little of `make torture`: processes killed at random moments, and many at work on one project at once."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent.parent


def torture(*arguments: str) -> None:
    """Carry it out, and fail with what it says, which names the seed and how to go on from it."""
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
    """Given again after each kill, commands make the index of a project that nothing happened to, and pay no more."""
    torture("kills", "--store", store, "--kills", str(kills), "--seed", "1")


def test_concurrent_fetches_and_commits_give_only_correct_searches() -> None:
    """While two processes fetch and two commit, what two others search is never missing, old, half, double or wrong."""
    torture("load", "--seconds", "2", "--processes", "2")


def test_submission_steps_killed_at_random_moments_pay_for_no_text_twice() -> None:
    """Several at work at once, killed and given again, make the index that nothing happened to, each text paid once."""
    torture("submissions", "--store", "file", "--kills", "4", "--seed", "1")
