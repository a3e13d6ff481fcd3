"""Sources that go on from fetch to fetch: what could not be read is neither lost nor in the way of the rest."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING

import pytest

from flowbed.errors import Rejected
from flowbed.records import Document, Entry, Page, Problem
from flowbed.sources import VENDORS

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Mapping
    from pathlib import Path

    from tests.support.projects import Project

BROKEN = Problem(subject="page 2", reason="cut off")


@dataclass
class Log:
    """A source of pages of documents by name; its cursor is the number of pages that were read.

    `begun` has the cursors of all fetches. `unreadable` are names of documents, and the problems of `troubled` pages
    come with them. A fetch that goes on is complete for the names that begin with one of `within`.
    """

    pages: list[list[str]]
    location: str = "a log"
    unreadable: set[str] = field(default_factory=set)
    troubled: dict[int, Problem] = field(default_factory=dict)
    gone: list[str] = field(default_factory=list)
    within: tuple[str, ...] = ()
    begun: list[str] = field(default_factory=list)

    async def fetch(self, cursor: str) -> AsyncIterator[Page]:
        self.begun.append(cursor)
        for number in range(int(cursor or 0), len(self.pages)):
            entries = [
                Entry(document=name, etag=f"{number}", read=partial(self._document, name, number))
                for name in self.pages[number]
            ]
            problems = [self.troubled[number]] if number in self.troubled else []
            yield Page(entries=entries, problems=problems, cursor=str(number + 1))
        yield Page(
            gone=self.gone,
            cursor=str(len(self.pages)),
            complete=not cursor or bool(self.within),
            within=self.within if cursor else (),
        )

    def _document(self, name: str, number: int) -> Document:
        if name in self.unreadable:
            raise Rejected(f"{name} is not text")
        return Document(id=name, kind="text", text=f"{name} of page {number}")


@pytest.fixture
def log(monkeypatch: pytest.MonkeyPatch) -> Log:
    """Return a source that the kind `log` opens."""
    log = Log(pages=[["a", "b"], ["c"], ["d"]])

    def opener(
        _location: str, *, folder: Path, options: Mapping[str, object], clock: Callable[[], int]
    ) -> Log:
        del folder, options, clock
        return log

    monkeypatch.setattr("tests.pipeline.deletions.test_paged_sources.open_log", opener, raising=False)
    monkeypatch.setitem(VENDORS, "log", "tests.pipeline.deletions.test_paged_sources:open_log")
    return log


def names(project: Project) -> str:
    return "".join(sorted(key.split("#")[1] for key in project.documents("log")))


async def test_run_unreadable_document_is_a_dead_letter_until_retried(project: Project, log: Log) -> None:
    """The cursor moves on past it, its reason stays where failures are, and a retry lists the source again."""
    async with await project.open() as bed:
        await bed.add("log", kind="log", location="log://x")
        await bed.run()
        log.pages += [["e", "f"], ["g"]]
        log.unreadable = {"e"}
        report = await bed.run()
        assert (report.failed, report.fetched, names(project)) == (1, 2, "abcdfg")
        for _ in range(2):
            (letter,) = await bed.dead_letters()
            assert (letter.kind, letter.owner, letter.subject, letter.reason) == (
                "source",
                "log",
                "e",
                "e is not text",
            )
            assert (await bed.run()).failed == 0
        assert log.begun == ["", "3", "5", "5"]
        log.unreadable = set()
        assert (await bed.replay("e")).sources == ("log",)
        report = await bed.run()
        assert (log.begun[-1], report.fetched, report.failed, names(project)) == ("", 1, 0, "abcdefg")
        assert await bed.dead_letters() == []


@pytest.mark.parametrize("way", ["listed again", "gone"])
async def test_run_document_that_is_read_or_gone_later_has_no_dead_letter(
    project: Project, log: Log, way: str
) -> None:
    async with await project.open() as bed:
        await bed.add("log", kind="log", location="log://x")
        await bed.run()
        log.pages.append(["e", "f"])
        log.unreadable = {"e", "f"}
        assert (await bed.run()).failed == 2
        log.pages.append(["f", "g"] if way == "gone" else ["e", "f", "g"])
        log.unreadable = {"f"}
        log.gone = ["e"] if way == "gone" else []
        assert (await bed.run()).failed == 1
        assert [(letter.subject, letter.attempts) for letter in await bed.dead_letters()] == [("f", 2)]


async def test_run_partly_complete_listing_deletes_only_in_that_part_and_what_is_gone(
    project: Project, log: Log
) -> None:
    """It does not say that the source is empty, and keeps dead letters of the other parts."""
    async with await project.open() as bed:
        await bed.add("log", kind="log", location="log://x")
        await bed.run()
        log.pages.append(["e", "f"])
        log.unreadable = {"f"}
        await bed.run()
        log.gone, log.within = ["a"], ("d",)
        report = await bed.run()
        assert (report.deleted, report.empty, names(project)) == (2, {}, "bce")
        assert [letter.subject for letter in await bed.dead_letters()] == ["f"]


async def test_run_problem_without_a_document_keeps_the_cursor_before_its_page(
    project: Project, log: Log
) -> None:
    """What follows is stored all the same, and the next run asks for the page again."""
    async with await project.open() as bed:
        await bed.add("log", kind="log", location="log://x")
        await bed.run()
        log.pages += [["e"], ["f"], ["g"]]
        log.troubled = {4: BROKEN}
        report = await bed.run()
        assert (report.failed, report.fetched, names(project)) == (1, 3, "abcdefg")
        log.troubled = {}
        log.pages[4].append("h")
        report = await bed.run()
        assert (log.begun, report.fetched, report.failed) == (["", "3", "4"], 1, 0)
        assert names(project) == "abcdefgh"
        await bed.run()
        assert log.begun[-1] == "6"


async def test_plan_with_a_document_that_cannot_be_read_leaves_a_dead_letter(
    project: Project, log: Log
) -> None:
    async with await project.open() as bed:
        await bed.add("log", kind="log", location="log://x")
        await bed.run()
        log.pages.append(["e", "f"])
        log.unreadable = {"e"}
        plan = await bed.plan()
        assert await bed.dead_letters() == []
        await bed.run(plan=plan.plan_id)
        assert [letter.subject for letter in await bed.dead_letters()] == ["e"]
