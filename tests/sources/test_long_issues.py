"""An issue of 200,000 characters, with a comment of as many, is indexed whole, over APIs and of a dump."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from flowbed.testing.simulators import running
from flowbed.testing.simulators.sources.backlog import Backlog
from flowbed.testing.simulators.sources.gitlab import GitLab

if TYPE_CHECKING:
    from tests.support.projects import Project

# Characters of a line, and how many lines have 200,000.
LINE, LINES = 80, 2_500
# The most characters of a chunk that a model of 256 tokens may get of such words.
LONGEST = 1_300


def text(name: str) -> str:
    """Return 200,000 characters in lines, each with a word of its own; some are paragraphs."""
    lines = (f"{name}{number:04} " for number in range(LINES))
    return "".join(
        line + "a word or two " * ((LINE - len(line)) // 14) + ("\n\n" if at % 40 == 0 else "\n")
        for at, line in enumerate(lines)
    ).ljust(LINE * LINES, ".")


async def indexed(project: Project, kind: str, location: str) -> None:
    """Run a source of one long issue: no word is dropped, nothing is reported, and no chunk is too large."""
    async with await project.open() as bed:
        await bed.add("issues", kind=kind, location=location)
        report = await bed.run()
    assert (report.fetched, report.failed) == (1, 0)
    found = {word for row in project.documents("issues").values() for word in row.split()}
    for name in ("text", "note"):
        assert found.issuperset(f"{name}{number:04}" for number in range(LINES))
    assert max(map(len, project.sent())) < LONGEST


async def test_issue_of_200000_characters_is_indexed_whole(project: Project) -> None:
    gitlab = GitLab()
    gitlab.note("issues", gitlab.post("issues", "Long", text("text")), text("note"))
    async with running(gitlab, dated=False) as url:
        await indexed(project, "gitlab", f"{url}/web/app")


@pytest.mark.long
async def test_issue_of_200000_characters_of_backlog_is_indexed_whole(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BACKLOG_API_KEY", "any")
    backlog = Backlog()
    ops = backlog.add_project("OPS")
    backlog.comment(ops, backlog.post(ops, "Long", text("text")), text("note"))
    async with running(backlog, dated=False) as url:
        await indexed(project, "backlog", url)


@pytest.mark.long
async def test_issue_of_200000_characters_of_a_dump_is_indexed_whole(project: Project) -> None:
    gitlab = GitLab()
    gitlab.note("issues", gitlab.post("issues", "Long", text("text")), text("note"))
    project.write("dump.json", json.dumps(gitlab.dump()))
    await indexed(project, "gitlab", "dump.json")
