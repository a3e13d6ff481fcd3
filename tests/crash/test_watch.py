"""Watches killed in the middle of fetching and embedding: the next one ends in the same index, without a command."""

from __future__ import annotations

import os
import random
import signal
import time
from typing import TYPE_CHECKING

import pytest
from tests.crash.conftest import sentence
from tests.support.counting import CountingProcess
from tests.support.processes.killing import Project

from flowbed import telemetry
from flowbed.testing.index import assert_same

if TYPE_CHECKING:
    from pathlib import Path

# The index is created only once.
POINTS = sorted(set(telemetry.FAILPOINTS) - {telemetry.INDEX_CREATED})
SOURCES = ("one", "two")
SECONDS = 60


def change(project: Project, chance: random.Random) -> None:
    """Write some new texts into a source, and change or remove an old one."""
    source = chance.choice(SOURCES)
    for _ in range(3):
        project.write_text(f"{source}/{chance.getrandbits(32)}.txt", sentence(chance))
    old = sorted((project.folder / source).iterdir())
    chance.choice(old).write_text(sentence(chance))
    if len(old) > 12:
        chance.choice(old).unlink(missing_ok=True)


def finish(project: Project, provider: CountingProcess) -> None:
    """Let a watch do what is left, and end it with SIGTERM."""
    watch = project.start(provider, "watch")
    try:
        for _ in range(SECONDS * 5):
            time.sleep(0.2)
            plan_left = set(project.status().chunks) - {"SUCCESS"} or unfetched(project)
            if not plan_left:
                break
    finally:
        os.kill(watch.process.pid or 0, signal.SIGTERM)
    ended = watch.wait()
    assert ended.returncode == 0, ended.stderr


def unfetched(project: Project) -> bool:
    """Tell whether the files differ from what is indexed."""
    rows = project.contents().rows
    there = {
        source: {path.read_text().strip() for path in (project.folder / source).iterdir()}
        for source in SOURCES
    }
    return {name: {row.document for row in rows.get(name, {}).values()} for name in SOURCES} != there


@pytest.mark.parametrize(
    ("kills", "seed"), [(2, 7), pytest.param(200, 1, marks=[pytest.mark.long, pytest.mark.timeout(3_000)])]
)
def test_watch_killed_at_random_points_and_started_again_loses_nothing(
    kills: int, seed: int, tmp_path: Path
) -> None:
    """After all kills the index is that of the files; nothing is paid for twice but what was in flight."""
    chance = random.Random(seed)
    project = Project(tmp_path / "project")
    project.folder.mkdir()
    for source in SOURCES:
        project.write_text(f"{source}/first.txt", sentence(chance))
        project.write_source(source, "files", source)
    in_flight = 0
    with CountingProcess() as provider:
        for _ in range(kills):
            change(project, chance)
            point = chance.choice(POINTS)
            killed = project.start(provider, "watch", at=point).wait(SECONDS)
            assert killed.returncode == -signal.SIGKILL, (point, killed.stderr)
            in_flight += killed.in_flight
        finish(project, provider)
        twice = sum(times - 1 for times in provider.report().texts.values())
    assert twice <= in_flight
    project.assert_finished()
    assert_same(project.contents(), project.anew(tmp_path / "fresh"))
