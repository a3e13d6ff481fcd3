"""A full disk: a clear message, nothing lost, and runs succeed once there is space."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import TYPE_CHECKING, NoReturn

import pytest

import flowbed
from flowbed.testing.index import assert_same, contents_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

DISK = 4 * 2**20
SETTINGS = 'model = "seeded:32"\n[sources.notes]\nkind = "jsonl"\nlocation = "{location}"\n'


@pytest.fixture
def disk(tmp_path: Path, lacking: Callable[[str], NoReturn]) -> Iterator[Path]:
    """Mount a disk of 4 MiB."""
    place = tmp_path / "disk"
    place.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={DISK}", "tmpfs", str(place)]
    try:
        made = subprocess.run(mount, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        lacking("there is no mount command here")
    if made.returncode:
        lacking(f"a small disk cannot be mounted: {made.stderr.strip()}")
    try:
        yield place
    finally:
        subprocess.run(["umount", str(place)], check=True)


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """Write 400 notes, on a disk with space."""
    path = tmp_path / "notes.jsonl"
    write_notes(path, 400)
    return path


@pytest.mark.parametrize(
    "left", [0, 400, *(pytest.param(left, marks=pytest.mark.long) for left in (200, 800, 1_300))]
)
def test_run_full_disk_says_so_and_loses_nothing(disk: Path, source: Path, left: int, tmp_path: Path) -> None:
    """With `left` KiB of space a run says that the disk is full, keeps the old index, and succeeds later."""
    (disk / "flowbed.toml").write_text(SETTINGS.format(location=source), "utf-8")
    with flowbed.open(disk) as bed:
        assert bed.run().failed == 0
    before = contents_of(disk)
    write_notes(source, 700)
    used = os.statvfs(disk)
    ballast = disk / "ballast"
    ballast.write_bytes(bytes(max(0, used.f_bavail * used.f_frsize - left * 1024)))
    full = run(disk)
    if full.returncode == 0:
        assert left >= 1_000, "so little space cannot have been enough"
    else:
        assert_told(full)
        assert set(before.rows["notes"]) <= set(contents_of(disk).rows["notes"])
    ballast.unlink()
    assert_mended(disk, source, tmp_path)


@pytest.mark.parametrize("left", [0, 120, pytest.param(400, marks=pytest.mark.long)])
def test_run_disk_full_from_the_start_says_so(disk: Path, source: Path, left: int, tmp_path: Path) -> None:
    """A project that cannot be created for lack of space says so, and is created once there is some."""
    (disk / "flowbed.toml").write_text(SETTINGS.format(location=source), "utf-8")
    (disk / "ballast").write_bytes(bytes(DISK - (left + 4) * 1024))
    assert_told(run(disk))
    (disk / "ballast").unlink()
    assert_mended(disk, source, tmp_path)


@pytest.mark.parametrize("size", [100_000, pytest.param(20_000, marks=pytest.mark.long)])
def test_run_file_size_limit_says_so_and_loses_nothing(tmp_path: Path, source: Path, size: int) -> None:
    """Under a limit to the size of files a run says so, and succeeds without the limit."""
    project = tmp_path / "project"
    project.mkdir()
    (project / "flowbed.toml").write_text(SETTINGS.format(location=source), "utf-8")
    limited = run(project, "prlimit", f"--fsize={size}")
    assert_told(limited)
    assert_mended(project, source, tmp_path)


def write_notes(path: Path, number: int) -> None:
    """Write `number` notes with distinct texts."""
    notes = [{"id": each, "text": f"note {each} " + f"word{each} " * 20} for each in range(number)]
    path.write_text("".join(f"{json.dumps(note)}\n" for note in notes), "utf-8")


def run(folder: Path, *before: str) -> subprocess.CompletedProcess[str]:
    """Run in a separate process."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("FLOWBED_")}
    # No bytecode may be written under a limit, since half a file of it would be kept.
    return subprocess.run(
        [*before, sys.executable, "-B", "-m", "flowbed", "run", "--json"],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def assert_told(ended: subprocess.CompletedProcess[str]) -> None:
    """Check that a run failed, and said why in a way that a person can act on."""
    assert ended.returncode == 1, ended
    said = ended.stdout + ended.stderr
    assert "Traceback" not in said
    assert "space" in said or "disk is full" in said, said


def assert_mended(folder: Path, source: Path, beside: Path) -> None:
    """Check that the next run succeeds, with the index of a project that never had a full disk."""
    fresh = beside / "fresh"
    fresh.mkdir()
    (fresh / "flowbed.toml").write_text(SETTINGS.format(location=source), "utf-8")
    for each in (folder, fresh):
        with flowbed.open(each) as bed:
            assert bed.run().failed == 0
    assert_same(contents_of(folder), contents_of(fresh))
