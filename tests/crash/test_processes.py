"""Several processes that work on one project at once, and one that is interrupted."""

from __future__ import annotations

import asyncio
import json
import random
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from tests.support.counting import CountingProcess

from flowbed.storage import open_store
from flowbed.testing.index import assert_same, contents

if TYPE_CHECKING:
    from tests.support.processes.killing import Project

COMMITTING = Path(__file__).with_name("committing.py")
WORDS = ("birch", "elm", "fir", "larch", "oak", "pine")


async def test_commit_overlapping_deltas_in_four_processes_keeps_newest_rows_once(
    tmp_path: Path,
) -> None:
    """Each id has one row, at its highest version."""
    pipe = asyncio.subprocess.PIPE
    started = [
        await asyncio.create_subprocess_exec(
            *(sys.executable, str(COMMITTING), str(tmp_path), str(number)), stdout=pipe, stderr=pipe
        )
        for number in range(4)
    ]
    try:
        ended = await asyncio.wait_for(asyncio.gather(*(each.communicate() for each in started)), 120)
    finally:
        for each in started:
            if each.returncode is None:
                each.kill()
            await each.wait()
    assert [each.returncode for each in started] == [0] * 4, ended
    newest: dict[str, tuple[int, str, bool]] = {}
    for said, _ in ended:
        for key, version, run, deleted in json.loads(said):
            newest[key] = max(newest.get(key, (0, "", False)), (version, run, deleted))
    found = await contents(open_store(str(tmp_path / "store"), folder=tmp_path))
    assert found.doubled == ()
    assert {key: row.document for key, row in found.rows["shared"].items()} == {
        key: f"{key} at {version} of {run}" for key, (version, run, deleted) in newest.items() if not deleted
    }
    assert any(deleted for _, _, deleted in newest.values())


async def test_two_runs_at_once_send_each_text_once(project: Project, tmp_path: Path) -> None:
    """Both end well, and the index is that of one run."""
    fill(project, files=60)
    with CountingProcess(delay=0.05) as provider:
        # With a limit for each run, something is left for the other whichever is first.
        first, second = await asyncio.gather(
            project.begun(provider, "--limit", "40"), project.begun(provider, "--limit", "40")
        )
        ended = await asyncio.gather(first.ended(), second.ended())
        assert [each.returncode for each in ended] == [0, 0], ended
        counted = provider.report()
    assert sum(each.report["embedded"] for each in ended) == 60
    assert sum(each.report["chunks"] for each in ended) == 60
    assert set(counted.texts.values()) == {1}
    project.assert_finished()
    assert_same(project.contents(), project.anew(tmp_path / "anew"))


async def test_run_while_another_holds_all_chunks_embeds_nothing(project: Project, tmp_path: Path) -> None:
    """It ends well, and sends no text that the other sends."""
    fill(project, files=60)
    with CountingProcess(delay=0.4) as provider:
        first = await project.begun(provider, after="request.sent")
        second = await (await project.begun(provider)).ended()
        assert second.returncode == 0, second
        assert second.report["embedded"] == 0
        assert (await first.ended()).returncode == 0
        counted = provider.report()
    assert set(counted.texts.values()) == {1}
    project.assert_finished()
    assert_same(project.contents(), project.anew(tmp_path / "anew"))


async def test_run_interrupted_exits_130_and_gives_claims_back(project: Project, tmp_path: Path) -> None:
    """It prints a plain message, and the next run goes on."""
    fill(project, files=60)
    with CountingProcess(delay=0.8) as provider:
        running = await project.begun(provider, after="vectors.kept")
        ended = await running.ended(signal.SIGINT)
        assert ended.returncode == 130, ended
        assert "interrupted" in ended.stderr
        assert "run again" in ended.stderr
        assert "Traceback" not in ended.stderr
        status = project.status()
        assert set(status.chunks) == {"NONE"}
        again = await (await project.begun(provider)).ended()
        assert again.returncode == 0, again
        twice = sum(times - 1 for times in provider.report().texts.values())
    assert 0 < again.report["embedded"] < 60
    assert twice <= ended.in_flight
    project.assert_finished()
    assert_same(project.contents(), project.anew(tmp_path / "anew"))


def fill(project: Project, *, files: int) -> None:
    """Write files of one chunk each."""
    chance = random.Random(files)
    for number in range(files):
        project.write_text(f"docs/{number:03d}.md", f"{' '.join(chance.choices(WORDS, k=12))} {number}")
    project.write_source("docs", "files", "docs")
