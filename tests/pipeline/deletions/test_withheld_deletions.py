"""Deletions in doubt: what is kept, where that is shown, and how a person insists."""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING

import pytest

from flowbed.cli.printing.views import show_status

if TYPE_CHECKING:
    from pathlib import Path

    from tests.support.projects import Project

    from flowbed.bed import Flowbed

BROKEN = '{"id": "b", "text": '


def records(project: Project, *lines: str) -> None:
    """Write records by their ids, or lines as they are."""
    written = [
        line if line.startswith("{") else json.dumps({"id": line, "text": f"{line} {project.folder}"})
        for line in lines
    ]
    project.write("notes.jsonl", "".join(f"{line}\n" for line in written))


async def added(project: Project, bed: Flowbed) -> None:
    records(project, "a", "b", "c", "d")
    await bed.add("notes", kind="jsonl", location="notes.jsonl")
    assert (await bed.run()).failed == 0


def ids(project: Project) -> str:
    return "".join(sorted(key.split("#")[1] for key in project.documents("notes")))


@pytest.mark.parametrize(
    "line",
    [
        pytest.param('{"id": "b"}', id="no text"),
        pytest.param('{"id": "b", "text": 5}', id="text is a number"),
        pytest.param('{"id": "b", "text": "x", "n": NaN}', id="nan"),
        pytest.param('{"id": "b", "text": "\\ud83d"}', id="half a character"),
        pytest.param('{"id": "b", "text": "tab\tin it"}', id="control character"),
    ],
)
async def test_run_unreadable_record_with_known_id_keeps_only_its_document(
    project: Project, line: str
) -> None:
    """Where the id of an unreadable record is known, its document is kept, and the missing ones are deleted."""
    async with await project.open() as bed:
        await added(project, bed)
        records(project, "a", line, "d")
        report = await bed.run()
        assert (report.deleted, report.failed, dict(report.withheld)) == (1, 1, {})
        assert ids(project) == "abd"


async def test_run_allow_deletes_insists_once_the_unreadable_records_are_reported(project: Project) -> None:
    """Deletions are carried out when a run that allows them finds only unreadable records that a run has reported."""
    async with await project.open() as bed:
        await added(project, bed)
        records(project, "a", BROKEN)
        # Nobody has seen yet what cannot be read.
        report = await bed.run(allow_deletes=True)
        assert report.deleted == 0
        assert "notes.jsonl:2" in report.withheld["notes"]
        assert "`flowbed run notes --allow-deletes`" in report.withheld["notes"]
        # Another one is new.
        records(project, "a", BROKEN, BROKEN)
        report = await bed.run(allow_deletes=True)
        assert report.deleted == 0
        assert "since 1 entry could not be read and may be theirs (notes.jsonl:3)" in report.withheld["notes"]
        # A plan shows what a run does, and records nothing itself.
        assert (await bed.plan(allow_deletes=True)).deleted == 3
        assert (await bed.run()).deleted == 0
        report = await bed.run(allow_deletes=True)
        assert (report.deleted, report.failed, dict(report.withheld)) == (3, 2, {})
        assert ids(project) == "a"


async def test_withheld_deletions_are_shown_until_they_are_resolved(
    project: Project, capsys: pytest.CaptureFixture[str]
) -> None:
    """Status and doctor name withheld deletions and the command, also from another process, until none are left."""
    async with await project.open() as bed:
        await added(project, bed)
        records(project, "a", BROKEN)
        reason = (await bed.run()).withheld["notes"]
    async with await project.open() as bed:
        status = await bed.status()
        assert status.withheld == {"notes": reason}
        show_status(status)
        assert f"notes: {reason}" in capsys.readouterr().out
        (finding,) = [each for each in (await bed.doctor()).findings if each.check == "deletions"]
        assert (finding.what, finding.fix) == (reason, "flowbed run notes --allow-deletes")
        records(project, "a", "b")
        assert (await bed.run()).deleted == 2
        assert (await bed.status()).withheld == {}
        assert not [each for each in (await bed.doctor()).findings if each.check == "deletions"]


async def test_large_deletion_that_waits_for_permission_is_shown(project: Project) -> None:
    """Deletions withheld for their number are shown too."""
    async with await project.open() as bed:
        records(project, *(f"r{number}" for number in range(40)))
        await bed.add("notes", kind="jsonl", location="notes.jsonl")
        await bed.run()
        records(project, "r0")
        await bed.run()
        assert "39 of 40" in (await bed.status()).withheld["notes"]
        assert (await bed.run(allow_deletes=True)).deleted == 39
        assert (await bed.status()).withheld == {}


async def test_run_unlistable_folder_keeps_only_what_was_below_it(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A folder that cannot be listed keeps the documents below it; others that are missing are deleted."""
    for name in ("closed/a.txt", "closed/in/b.txt", "closed.txt", "gone.txt", "d.txt"):
        project.write(f"docs/{name}", f"{name} of {project.folder}")
    async with await project.open() as bed:
        await bed.add("docs", kind="files", location="docs")
        await bed.run()
        for name in ("closed.txt", "gone.txt"):
            (project.folder / "docs" / name).unlink()
        scandir = os.scandir

        def faulty(path: Path) -> object:
            if getattr(path, "name", "") == "closed":
                raise PermissionError(13, "Permission denied")
            return scandir(path)

        monkeypatch.setattr(os, "scandir", faulty)
        report = await bed.run()
        monkeypatch.undo()
    assert (report.deleted, report.failed, dict(report.withheld)) == (2, 1, {})
    found = {key.split("#")[1] for key in project.documents("docs")}
    assert found == {"closed/a.txt", "closed/in/b.txt", "d.txt"}
