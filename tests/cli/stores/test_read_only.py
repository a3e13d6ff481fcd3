"""A project that can be read, but not written."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

SOURCES = Path(__file__).parents[3] / "src"
# Root may write anywhere; without this capability, only where the modes of a file allow its owner to.
AS_OWNER = ("setpriv", "--bounding-set=-dac_override", "--inh-caps=-dac_override")


@pytest.fixture
def closed(notes: Path) -> Iterator[Path]:
    """A project that nobody may write."""
    folder = notes.parent
    # A log without its index, as a copy of a project in use has it.
    for each in (folder / ".flowbed").glob("*-shm"):
        each.unlink()
    paths = [folder, *folder.rglob("*")]
    for path in paths:
        path.chmod(0o555 if path.is_dir() else 0o444)
    yield folder
    for path in paths:
        path.chmod(0o755)


def call(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Call a command, as a user without the right to write."""
    return subprocess.run(
        [
            *(AS_OWNER if os.geteuid() == 0 else ()),
            sys.executable,
            "-m",
            "flowbed",
            *arguments,
            "--config",
            str(folder),
        ],
        env={
            "PYTHONPATH": str(SOURCES),
            "FLOWBED_MODEL": "seeded:32",
            "HOME": "/nonexistent",
            "PATH": os.defpath,
        },
        cwd="/",
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@pytest.mark.parametrize("log", [False, True])
def test_read_only_project_can_be_searched_and_examined(closed: Path, log: bool) -> None:
    """Neither SQLite's log nor the vector cache is needed for it."""
    if log:
        place = closed / ".flowbed"
        place.chmod(0o755)
        (place / "ledger.db-wal").write_bytes(bytes(32))
        (place / "ledger.db-wal").chmod(0o444)
        place.chmod(0o555)
    found = call(closed, "search", "Tea is served at four.", "--json")
    assert found.returncode == 0, found.stderr
    assert json.loads(found.stdout.splitlines()[-1])["hits"][0]["id"] == "notes#tea.txt#00000"
    status = call(closed, "status", "--json")
    assert json.loads(status.stdout.splitlines()[-1])["collections"]["notes"]["rows"] == 3, status.stderr
    (tea,) = closed.rglob("tea.txt")
    tea.chmod(0o644)
    tea.write_text("Tea is served at five.")  # without a change, a run has nothing to write
    run = call(closed, "run")
    assert run.returncode == 2
    assert "make the file and its folder writable" in run.stderr
    assert "Traceback" not in run.stderr
