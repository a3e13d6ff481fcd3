"""Plans killed while they are staged or carried out, and repeated."""

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
    from tests.support.processes.running import Ran

    from flowbed.testing.index import Contents

CARRIED_OUT = [
    (telemetry.BATCH_WRITTEN, 2),
    (telemetry.FETCH_SWAPPED, 3),
    (telemetry.PLAN_RELEASED, 1),
    (telemetry.REQUEST_ANSWERED, 2),
    (telemetry.RUN_RECORDED, 1),
]


def plan(project: Project, provider: CountingProcess, *, at: str = "") -> Ran:
    """Plan in another process, which is killed at the point named."""
    return project.start(provider, "plan", at=at).wait()


@pytest.mark.parametrize(("point", "nth"), CARRIED_OUT)
def test_run_plan_killed_and_repeated_ends_in_the_same_index(
    point: str, nth: int, edited: Project, uninterrupted: Contents, tmp_path: Path
) -> None:
    """The second run sends again only texts that were in flight."""
    project = edited.copy(tmp_path / "project")
    with CountingProcess() as provider:
        planned = plan(project, provider).report
        arguments = ("--plan", planned["plan_id"])
        killed = project.run(provider, *arguments, at=f"{point}:{nth}")
        assert killed.returncode == -signal.SIGKILL, killed.stderr
        again = project.run(provider, *arguments)
        assert again.returncode == 0, again.stdout + again.stderr
        twice = sum(times - 1 for times in provider.report().texts.values())
    assert again.report["drift"] == {}
    assert twice <= killed.in_flight
    assert_same(project.contents(), uninterrupted)
    project.assert_finished()


@pytest.mark.parametrize("point", [telemetry.FETCH_SWAPPED, telemetry.PLAN_RELEASED])
def test_run_without_plan_after_killed_plan_ends_in_the_same_index(
    point: str, edited: Project, uninterrupted: Contents, tmp_path: Path
) -> None:
    """The plan then finds its work done."""
    project = edited.copy(tmp_path / "project")
    with CountingProcess() as provider:
        planned = plan(project, provider).report
        killed = project.run(provider, "--plan", planned["plan_id"], at=f"{point}:2")
        assert killed.returncode == -signal.SIGKILL, killed.stderr
        plain = project.run(provider)
        assert plain.returncode == 0, plain.stdout + plain.stderr
        assert_same(project.contents(), uninterrupted)
        after = project.run(provider, "--plan", planned["plan_id"])
        assert after.returncode == 0, after.stdout
        assert (after.report["chunks"], after.report["deleted"], after.report["drift"]) == (0, 0, {})
        assert set(provider.report().texts.values()) == {1}
    assert_same(project.contents(), uninterrupted)
    project.assert_finished()


@pytest.mark.parametrize(("point", "nth"), [(telemetry.PLAN_STAGED, 4), (telemetry.PLAN_WRITTEN, 1)])
def test_plan_killed_and_repeated_is_staged_whole(
    point: str, nth: int, edited: Project, uninterrupted: Contents, tmp_path: Path
) -> None:
    """It is then carried out like any other."""
    project = edited.copy(tmp_path / "project")
    with CountingProcess() as provider:
        killed = plan(project, provider, at=f"{point}:{nth}")
        assert killed.returncode == -signal.SIGKILL, killed.stderr
        ended = project.run(provider, "--plan", plan(project, provider).report["plan_id"])
        assert ended.returncode == 0, ended.stdout + ended.stderr
    assert_same(project.contents(), uninterrupted)
    project.assert_finished()
