"""A short form of `make torture`: processes killed at random moments, and many that work on one project at once."""

from __future__ import annotations

import os
from unittest import mock

import pytest
from torture.__main__ import main

Output = pytest.CaptureFixture[str]


def torture(capsys: Output, *arguments: str) -> None:
    """Run it, and fail with its output, which names the seed and the command that repeats it."""
    with mock.patch.dict(os.environ):  # over S3 it sets keys of its own
        status = main(arguments)
    assert status == 0, "".join(capsys.readouterr())


@pytest.mark.parametrize(("store", "kills"), [("file", 2), ("s3", 1)])
def test_commands_killed_at_random_moments_end_in_the_same_index(
    store: str, kills: int, capsys: pytest.CaptureFixture[str]
) -> None:
    """Repeated after each kill, they pay for nothing else."""
    torture(capsys, "kills", "--store", store, "--kills", str(kills), "--seed", "1")


def test_concurrent_fetches_and_commits_give_only_correct_searches(
    capsys: pytest.CaptureFixture[str],
) -> None:
    """While two processes fetch and two commit, what two others find is never missing, stale, partial or wrong."""
    torture(capsys, "load", "--seconds", "2", "--processes", "2")


@pytest.mark.parametrize(("store", "kills"), [("file", 1), pytest.param("s3", 2, marks=pytest.mark.long)])
def test_publications_killed_at_random_moments_leave_the_last_good_snapshot(
    store: str, kills: int, capsys: pytest.CaptureFixture[str]
) -> None:
    """A plain client finds the rows of the index in the end."""
    torture(capsys, "publishing", "--store", store, "--kills", str(kills), "--seed", "1", "--at-once", "1")


def test_publishers_readers_and_a_collector_at_once_give_no_wrong_answer(
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Every snapshot that is pulled is whole, equals its version of the index, and is no older than the last one."""
    torture(capsys, "crowd", "--seconds", "2", "--processes", "2")


def test_submission_steps_killed_at_random_moments_pay_for_no_text_twice(
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Several work at once, and the index is that of an undisturbed project."""
    torture(capsys, "submissions", "--store", "file", "--kills", "2", "--seed", "1")
