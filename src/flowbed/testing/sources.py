"""The contract of a source, as tests to subclass.

    class TestMine(SourceContract):
        def open_source(self, folder):
            return Mine(folder)

        def write(self, folder, name, text): ...
        def remove(self, folder, name): ...

Needs pytest and pytest-asyncio (in `auto` mode).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from contextlib import suppress
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from flowbed.errors import Misconfigured, Rejected, Transient
from flowbed.records import Document

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from pathlib import Path

    from flowbed.records import Entry, Page
    from flowbed.sources import Source

# More than a page of any source.
MANY = 1_100


async def pages(source: Source, cursor: str = "") -> list[Page]:
    """Fetch to the end."""
    return [page async for page in source.fetch(cursor)]


def entries(fetched: Sequence[Page]) -> list[Entry]:
    """Return everything that was listed, in order."""
    return [entry for page in fetched for entry in page.entries]


def etags(fetched: Sequence[Page]) -> dict[str, str]:
    """Return the etag of each listed document."""
    return {entry.document: entry.etag for entry in entries(fetched)}


def still_there(held: Iterable[str], fetched: Sequence[Page]) -> set[str]:
    """Return which of the documents that were held before a fetch are there after it.

    A complete fetch says so of all that it covers: it lists them, or they are present, or have a problem.
    """
    last = fetched[-1]
    if not last.complete:
        return set(held)
    problems = [problem for page in fetched for problem in page.problems]
    found = {*etags(fetched), *last.present, *(problem.document for problem in problems)}
    folders = tuple(problem.folder for problem in problems if problem.folder)
    folders += last.kept
    return {
        name
        for name in held
        if name in found or name.startswith(folders) or not name.startswith(last.within or "")
    }


async def fetch_killed(source: Source, cursor: str, store: Callable[[Page], None], *, after: int) -> str:
    """Fetch like a run that is killed after it stored `after` pages, and return the cursor that it leaves.

    A run stores the entries of a page together with the cursor of the page before. It deletes at the end of a fetch,
    and until then its cursor stays before the first page that says what is gone. `store` gets pages without that.
    """
    saved = value = cursor
    frozen: str | None = None
    with suppress(Transient):
        async for page in source.fetch(cursor):
            before = value if page.cursor else ""
            if page.gone and frozen is None:
                frozen = before
            if page.entries:
                store(replace(page, gone=()))
                saved = before if frozen is None else frozen
            value = page.cursor
            after -= 1
            if not after:
                break
    return saved


class SourceContract(ABC):
    """Tests of a source whose documents are in `folder`."""

    @abstractmethod
    def open_source(self, folder: Path) -> Source:
        """Open the source; its clock must be late enough that earlier writes count as old."""

    @abstractmethod
    def write(self, folder: Path, name: str, text: str) -> str:
        """Create or replace a document and return its id; `name` is a plain word."""

    @abstractmethod
    def remove(self, folder: Path, name: str) -> None:
        """Remove a document."""

    def empty(self, folder: Path) -> None:
        """Make the location exist without documents."""
        folder.mkdir(exist_ok=True)

    @pytest.fixture
    def folder(self, tmp_path: Path) -> Path:
        """Return an empty folder."""
        folder = tmp_path / "source"
        self.empty(folder)
        return folder

    @pytest.fixture
    def three(self, folder: Path) -> list[str]:
        """Write three documents and return their ids."""
        return [self.write(folder, name, f"the text of {name}") for name in ("one", "two", "three")]

    async def test_fetch_lists_every_document_once(self, folder: Path, three: list[str]) -> None:
        """A first fetch lists every document once, and its last page is complete."""
        fetched = await pages(self.open_source(folder))
        assert sorted(entry.document for entry in entries(fetched)) == sorted(three)
        assert [page.complete for page in fetched] == [False] * (len(fetched) - 1) + [True]
        assert not any(page.problems or page.gone for page in fetched)

    @pytest.mark.usefixtures("three")
    async def test_read_returns_listed_document(self, folder: Path) -> None:
        """Reading an entry returns the listed document, each time the same."""
        fetched = await pages(self.open_source(folder))
        for entry in entries(fetched):
            document = entry.read()
            assert document.id == entry.document
            assert "the text of" in document.text
            assert isinstance(document, Document)
            assert document.hash == entry.read().hash
            document.hash.encode("ascii")

    @pytest.mark.usefixtures("three")
    async def test_fetch_without_edit_changes_nothing(self, folder: Path) -> None:
        """A second fetch from the end of the first lists no changed etag, and nothing as gone."""
        source = self.open_source(folder)
        first = await pages(source)
        second = await pages(source, first[-1].cursor)
        assert etags(second).items() <= etags(first).items()
        assert not any(page.gone for page in second)
        assert not second[-1].complete or etags(second) == etags(first)

    @pytest.mark.usefixtures("three")
    async def test_fetch_twice_lists_the_same(self, folder: Path) -> None:
        """Two fetches from the beginning list the same in the same order."""
        first = await pages(self.open_source(folder))
        second = await pages(self.open_source(folder))
        assert [(entry.document, entry.etag) for entry in entries(first)] == [
            (entry.document, entry.etag) for entry in entries(second)
        ]

    @pytest.mark.usefixtures("three")
    async def test_fetch_after_edit_changes_its_etag(self, folder: Path) -> None:
        """After an edit, only the etag of that document has changed, and reading returns the new text."""
        source = self.open_source(folder)
        first = await pages(source)
        edited = self.write(folder, "two", "quite another text")
        second = await pages(source, first[-1].cursor)
        moved = {
            entry.document: entry
            for entry in entries(second)
            if etags(first).get(entry.document) != entry.etag
        }
        assert list(moved) == [edited]
        assert "quite another text" in moved[edited].read().text

    @pytest.mark.usefixtures("three")
    async def test_fetch_after_addition_lists_it(self, folder: Path) -> None:
        """After an addition, the new document is listed."""
        source = self.open_source(folder)
        first = await pages(source)
        added = self.write(folder, "four", "the text of four")
        assert added in etags(await pages(source, first[-1].cursor))

    async def test_fetch_after_removal_reports_it(self, folder: Path, three: list[str]) -> None:
        """After a removal, a complete fetch no longer lists the document, or reports it as gone."""
        source = self.open_source(folder)
        first = await pages(source)
        self.remove(folder, "two")
        second = await pages(source, first[-1].cursor)
        missed = second[-1].complete and three[1] not in etags(second)
        assert missed or three[1] in [document for page in second for document in page.gone]

    async def test_read_removed_document_is_unchanged_or_rejected(
        self, folder: Path, three: list[str]
    ) -> None:
        """Reading the entry of a removed document returns the document as listed, or is rejected."""
        fetched = await pages(self.open_source(folder))
        self.remove(folder, "two")
        (entry,) = (entry for entry in entries(fetched) if entry.document == three[1])
        try:
            assert "the text of two" in entry.read().text
        except Rejected as error:
            assert str(error)  # noqa: PT017 - either outcome is right

    async def test_fetch_empty_location_is_complete(self, folder: Path) -> None:
        """A location without documents is one complete, empty page."""
        (page,) = await pages(self.open_source(folder))
        assert page.complete
        assert not page.entries
        assert not page.problems

    async def test_fetch_missing_location_is_misconfigured(self, tmp_path: Path) -> None:
        """Fetching from a missing location says so, and lists nothing."""
        with pytest.raises(Misconfigured, match="does not exist"):
            await pages(self.open_source(tmp_path / "nowhere"))

    async def test_fetch_interrupted_loses_nothing(self, folder: Path) -> None:
        """A fetch from the cursor of any page lists everything that the pages before did not."""
        written = {self.write(folder, f"n{number:04d}", f"the text of {number}") for number in range(MANY)}
        source = self.open_source(folder)
        seen: set[str] = set()
        cursor = ""
        async for page in source.fetch(cursor):
            seen |= {entry.document for entry in page.entries}
            cursor = page.cursor
            break
        assert seen | set(etags(await pages(source, cursor))) == written
