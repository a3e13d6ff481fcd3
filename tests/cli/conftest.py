"""The command line, called as a shell would, within this process."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pytest

from flowbed.cli.app import run

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


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
    monkeypatch.setenv("FLOWBED_MODEL", "seeded:32")
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


@pytest.fixture
def notes(project: Path, flowbed: Callable[..., Called]) -> Path:
    """A folder of three texts that is a source, and was run."""
    folder = project / "notes"
    folder.mkdir()
    (folder / "keys.md").write_text("# Keys\n\nWe rotate the keys each month.\n")
    (folder / "tea.txt").write_text("Tea is served at four.\n")
    (folder / "cats.txt").write_text("Cats sleep most of the day.\n")
    assert flowbed("init").status == 0
    assert flowbed("add", "notes", "files", "notes").status == 0
    assert flowbed("run", "--json").status == 0
    return folder
