"""The command line, called within this process as a shell would call it."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pytest

from flowbed.cli.app import run

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


MODEL = "seeded:32"


@dataclass(frozen=True)
class Called:
    """What one call printed, and its exit status."""

    status: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        """The last line, which is the result."""
        return json.loads(self.out.splitlines()[-1])


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project folder that is the current one, with a model that needs no weights."""
    folder = tmp_path / "project"
    folder.mkdir()
    monkeypatch.chdir(folder)
    monkeypatch.setenv("FLOWBED_MODEL", MODEL)
    return folder


@pytest.fixture
def flowbed(project: Path, capsys: pytest.CaptureFixture[str]) -> Callable[..., Called]:
    """Call a command in the project folder."""

    def call(*arguments: str) -> Called:
        capsys.readouterr()
        status = run(arguments)
        printed = capsys.readouterr()
        return Called(status, printed.out, printed.err)

    return call


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Run a project whose source is a folder of three texts, for tests to copy."""
    folder = tmp_path_factory.mktemp("finished")
    (folder / "notes").mkdir()
    (folder / "notes" / "keys.md").write_text("# Keys\n\nWe rotate the keys each month.\n")
    (folder / "notes" / "tea.txt").write_text("Tea is served at four.\n")
    (folder / "notes" / "cats.txt").write_text("Cats sleep most of the day.\n")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FLOWBED_MODEL", MODEL)
        for command in (["init"], ["add", "notes", "files", "notes"], ["run", "--json"]):
            assert run([*command, "--config", str(folder)]) == 0
    return folder


@pytest.fixture
def notes(project: Path, finished: Path) -> Path:
    """Copy the project that was run; give the folder of its three texts."""
    shutil.copytree(finished, project, dirs_exist_ok=True)
    return project / "notes"
