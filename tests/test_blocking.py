"""The synchronous face and the async object are one thing."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

import flowbed
from flowbed.testing.counting import CountingProcess

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture(autouse=True)
def seeded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Use a model that needs no weights."""
    monkeypatch.setenv("FLOWBED_MODEL", "seeded:16")


@pytest.fixture
def docs(tmp_path: Path) -> Path:
    """A folder of two texts."""
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs" / "a.txt").write_text("We rotate the keys each month.\n")
    (tmp_path / "docs" / "b.txt").write_text("Tea is served at four.\n")
    return tmp_path / "docs"


def test_a_project_is_used_without_async(docs: Path, tmp_path: Path) -> None:
    """Opened, filled, searched, inspected and closed, all from plain code."""
    with flowbed.open(tmp_path / "project") as bed:
        bed.add("handbook", kind="files", location=docs)
        assert bed.plan().new == 2
        report = bed.run()
        assert (report.fetched, report.embedded) == (2, 2)
        (hit,) = bed.search("Tea is served at four.", limit=1)
        assert hit.id == "handbook#b.txt#00000"
        assert hit.score == pytest.approx(1.0, abs=1e-6)
        assert bed.find("x").versions == report.versions
        assert bed.status().collections["handbook"].rows == 2
        assert bed.why("b.txt")[0].chunk.status == "SUCCESS"
        assert bed.versions("handbook")[0].version == report.versions["handbook"]
        assert set(bed.compact()) == {"handbook"}
        assert bed.dead_letters() == []
        assert bed.retry_dead_letters() == 0
    bed.close()


async def test_a_project_is_used_with_async(docs: Path, tmp_path: Path) -> None:
    """The async object does the same, and many searches at once."""
    async with await flowbed.aopen(tmp_path / "project") as bed:
        await bed.add("handbook", kind="files", location=docs)
        await bed.run()
        answers = await asyncio.gather(*(bed.search("Tea is served at four.", limit=1) for _ in range(20)))
        assert {hits[0].id for hits in answers} == {"handbook#b.txt#00000"}


async def test_a_vector_is_searched_for_as_a_text_is(docs: Path, tmp_path: Path) -> None:
    """A query may be a vector of the model's own dimensions, and nothing else."""
    async with await flowbed.aopen(tmp_path / "project") as bed:
        await bed.add("handbook", kind="files", location=docs)
        await bed.run()
        from flowbed.testing.embedder import seeded as vectors

        (hit,) = await bed.search(list(vectors(["Tea is served at four."], 16)[0]), limit=1)
        assert hit.id == "handbook#b.txt#00000"
        for wrong in ([0.0] * 15, [float("nan")] * 16, [[0.0] * 16]):
            with pytest.raises(flowbed.errors.Rejected, match="16 numbers"):
                await bed.search(wrong)  # type: ignore[arg-type]


def test_errors_come_through_as_they_are(tmp_path: Path) -> None:
    """What the async object raises is raised by the synchronous face, and the project can still be used."""
    with flowbed.open(tmp_path) as bed:
        with pytest.raises(flowbed.errors.Misconfigured, match="flowbed add"):
            bed.run()
        with pytest.raises(flowbed.errors.NotFound, match="flowbed run"):
            bed.search("x")
        assert bed.status().collections == {}


def test_a_folder_that_cannot_be_made_is_misconfigured(tmp_path: Path) -> None:
    """A project below a file is refused with the reason."""
    (tmp_path / "file").write_text("x")
    with pytest.raises(flowbed.errors.Misconfigured, match="cannot be used"):
        flowbed.open(tmp_path / "file" / "project")


INTERRUPTED = """
import os, signal, sys
import flowbed
from flowbed import telemetry

def interrupt(point, facts):
    if point == telemetry.REQUEST_SENT:
        stop()
        os.kill(os.getpid(), signal.SIGINT)

with flowbed.open(sys.argv[1]) as bed:
    bed.add("handbook", kind="files", location=sys.argv[2])
    stop = telemetry.listen(interrupt)
    try:
        bed.run()
    except KeyboardInterrupt:
        print(dict(bed.status().chunks))
    print(bed.run().chunks)
"""


def test_an_interrupt_waits_until_claims_are_given_back(docs: Path, tmp_path: Path) -> None:
    """Ctrl-C reaches the caller once nothing is claimed any more, and the same object can run again at once."""
    with CountingProcess(delay=0.3) as provider:
        named = json.dumps({"server": provider.address})
        done = subprocess.run(
            [sys.executable, "-c", INTERRUPTED, str(tmp_path / "project"), str(docs)],
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
            env={**os.environ, "FLOWBED_MODEL_OPTIONS": named},
        )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines() == ["{'NONE': 2}", "2"]
