"""Runs on a project whose ledger is in DynamoDB, killed at each named point and repeated."""

from __future__ import annotations

import os
import re
import signal
from typing import TYPE_CHECKING

import pytest
from tests.support.counting import CountingProcess
from tests.support.processes.killing import Project

from flowbed import telemetry
from flowbed.testing.index import assert_same

if TYPE_CHECKING:
    from pathlib import Path

    from flowbed.testing.aws import Emulator

ACCOUNT = "300000000005"
FILES = 30
# Where only the ledger knows what was done.
SOME = (telemetry.CHUNKS_CLAIMED, telemetry.RUN_RECORDED)


@pytest.fixture
def shared(aws: Emulator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Project:
    """Return a project with its ledger in a table that does not exist yet, and files of one chunk each."""
    folder = tmp_path / "project"
    folder.mkdir()
    for name, value in aws.variables(account=ACCOUNT).items():
        monkeypatch.setenv(name, value)
    table = re.sub(r"\W", "-", tmp_path.name)
    (folder / "flowbed.toml").write_text(f'model = "seeded:32"\nledger = "dynamodb://{table}"\n', "utf-8")
    project = Project(folder, dict(os.environ))
    for number in range(FILES):
        project.write_text(f"docs/{number:03d}.md", f"the first text of file {number}")
    project.write_source("docs", "files", "docs")
    return project


def killed_at_each(project: Project, points: tuple[str, ...], folder: Path) -> None:
    """Change some files, kill a run at a point, and repeat it: for each point, on the same project."""
    with CountingProcess() as provider:
        for number, point in enumerate(points):
            for each in range(number, FILES, 3):
                project.write_text(f"docs/{each:03d}.md", f"text {number} of file {each}")
            (project.folder / f"docs/{FILES - 1 - number:03d}.md").unlink()
            killed = project.run(provider, "--yes", at=f"{point}:1")
            assert killed.returncode == -signal.SIGKILL, (point, killed.stderr)
            again = project.run(provider, "--yes")
            assert again.returncode == 0, (point, again.stdout, again.stderr)
            assert project.status().chunks == {"SUCCESS": len(list((project.folder / "docs").iterdir()))}
    project.assert_finished()
    alone = project.folder / "flowbed.toml"
    without = re.sub(r"(?m)^ledger = .*\n", "", alone.read_text("utf-8"))
    found = project.contents()
    alone.write_text(without, "utf-8")
    assert_same(found, project.anew(folder))


def test_run_on_dynamodb_killed_and_repeated_ends_in_the_same_index(shared: Project, tmp_path: Path) -> None:
    """Chunks and their counts are those of a run that was never killed."""
    killed_at_each(shared, SOME, tmp_path / "anew")


@pytest.mark.long
def test_run_on_dynamodb_killed_at_every_point_ends_in_the_same_index(
    shared: Project, tmp_path: Path
) -> None:
    """The same at every point at which a run changes anything."""
    once = {telemetry.INDEX_CREATED}  # only the first run passes it
    killed_at_each(
        shared, tuple(each for each in telemetry.FAILPOINTS if each not in once), tmp_path / "anew"
    )
