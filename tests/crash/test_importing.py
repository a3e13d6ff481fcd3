"""Imports and conversions of deltas killed at each named point, and repeated."""

from __future__ import annotations

import os
import shutil
import signal
from typing import TYPE_CHECKING, Any

import pytest
from tests.support.processes.failpoints import kill_at
from tests.support.processes.running import fork
from tests.support.servers.chroma import archive, write_chroma

import flowbed
from flowbed import telemetry
from flowbed.testing.index import contents_of

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from tests.support.processes.running import Ran

IDS = tuple(f"row-{number}" for number in range(60))


@pytest.fixture(scope="module")
def chroma(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a Chroma directory."""
    return write_chroma(tmp_path_factory.mktemp("chroma") / "chroma", "docs", IDS)


@pytest.fixture
def project(tmp_path: Path, chroma: Path) -> Path:
    """Return a project with a registered delta in its store, and the directory beside it."""
    folder = tmp_path / "project"
    folder.mkdir()
    (folder / ".flowbed").mkdir(mode=0o700)
    delta = folder / ".flowbed" / "store" / "docs" / "delta" / "one"
    delta.mkdir(parents=True)
    (delta / "delta.tar.gz").write_bytes(archive(chroma))
    (folder / "flowbed.toml").write_text('model = "seeded:16"\n')
    shutil.copytree(chroma, folder / "chroma")
    return folder


def _run(folder: Path, arguments: tuple[str, ...], point: str) -> int:
    """Run a command that reads and writes few rows at a time, until a point kills it."""
    from flowbed.cli.app import run
    from flowbed.pipeline import importing, producer_deltas
    from flowbed.wiring import importing as wired

    os.chdir(folder)
    importing.GROUP = 20
    for module in (producer_deltas, wired):
        vars(module)["PAGE"] = 20
    if point:
        name, _, nth = point.partition(":")
        kill_at(name, int(nth or 1))
    return run(arguments)


def command(project: Path, *arguments: str, point: str = "") -> Ran:
    variables = {"PATH": os.environ["PATH"], "PYTHONPATH": os.environ["PYTHONPATH"]}
    return fork(_run, project, (*arguments, "--json"), point, variables=variables).wait()


def assert_whole(project: Path) -> None:
    with flowbed.open(project) as bed:
        assert bed.verify()["docs"].faults == ()
        assert bed.status().chunks == {"SUCCESS": len(IDS)}
        assert (bed.status().pending, bed.dead_letters()) == ((), [])
    found = contents_of(project)
    assert found.doubled == ()
    assert {key: row.document for key, row in found.rows["docs"].items()} == {
        key: f"text of {key}" for key in IDS
    }
    scratch = project / ".flowbed" / "scratch"
    assert list(scratch.iterdir()) == []


# A kill takes two processes that open Chroma directories: those points in the suite where most differs.
SHORT = {
    telemetry.FETCH_SWAPPED,
    telemetry.INDEX_MERGED,
    telemetry.DELTA_REGISTERED,
    telemetry.DELTA_CONVERTED,
}


def points(every: Sequence[str]) -> list[Any]:
    return [point if point in SHORT else pytest.param(point, marks=pytest.mark.long) for point in every]


@pytest.mark.parametrize("point", points(telemetry.INGEST_FAILPOINTS))
def test_import_killed_at_a_point_and_repeated_has_every_row_once(point: str, project: Path) -> None:
    """The second group is killed where the point is passed more than once."""
    nth = 1 if point in {telemetry.INDEX_MERGED, telemetry.RUN_COMMITTED} else 2
    killed = command(project, "import", "chroma", "-c", "docs", point=f"{point}:{nth}")
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    again = command(project, "import", "chroma", "-c", "docs")
    assert again.returncode == 0, again.stdout + again.stderr
    assert again.report["read"] == len(IDS)
    assert again.report["written"] + again.report["unchanged"] == len(IDS)
    assert_whole(project)


@pytest.mark.parametrize("point", points(telemetry.PRODUCER_DELTA_FAILPOINTS))
def test_deltas_add_killed_is_completed_by_a_call_without_keys(point: str, project: Path) -> None:
    killed = command(project, "deltas", "add", "docs/delta/one", point=point)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    if point != telemetry.RUN_COMMITTED:  # then the commit may have marked it already
        with flowbed.open(project) as bed:
            found = {(each.check, each.fix) for each in bed.doctor().findings}
        assert ("deltas", "flowbed deltas add") in found
    again = command(project, "deltas", "add")
    assert again.returncode == 0, again.stdout + again.stderr
    assert_whole(project)
    with flowbed.open(project) as bed:
        assert bed.doctor().findings == ()
