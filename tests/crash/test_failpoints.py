"""Runs killed at each named point and repeated."""

from __future__ import annotations

import signal
from typing import TYPE_CHECKING

import pytest
from tests.support.counting import CountingProcess

from flowbed import telemetry
from flowbed.testing.index import assert_same

if TYPE_CHECKING:
    from pathlib import Path

    from tests.support.processes.killing import Project

    from flowbed.testing.index import Contents

# One claim takes all waiting chunks, up to thousands; all other points are passed several times.
ONCE = {telemetry.CHUNKS_CLAIMED}
MOMENTS = [
    pytest.param(point, nth, marks=[pytest.mark.long] if nth == 1 and point not in ONCE else [])
    for point in telemetry.FAILPOINTS
    for nth in (1, 2)
    if nth == 1 or point not in ONCE
]


@pytest.mark.parametrize(("point", "nth"), MOMENTS)
def test_run_killed_at_a_failpoint_and_repeated_ends_in_the_same_index(
    point: str, nth: int, edited: Project, uninterrupted: Contents, tmp_path: Path
) -> None:
    """The second run sends again only texts that were in flight."""
    project = edited.copy(tmp_path / "project")
    with CountingProcess() as provider:
        killed = project.run(provider, at=f"{point}:{nth}")
        assert killed.returncode == -signal.SIGKILL, killed.stderr
        again = project.run(provider)
        assert again.returncode == 0, again.stdout + again.stderr
        twice = sum(times - 1 for times in provider.report().texts.values())
    assert_same(project.contents(), uninterrupted)
    assert twice <= killed.in_flight
    assert again.in_flight == 0
    project.assert_finished()
