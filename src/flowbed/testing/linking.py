"""The contract of a source whose documents have addresses, as tests to subclass.

    class TestMine(LinkingContract):
        @asynccontextmanager
        async def opened(self, folder):
            ...  # write or serve some documents
            yield Mine(folder)

        missing = ("https://mine.example/tasks/999",)

Needs pytest and pytest-asyncio (in `auto` mode).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import pytest

from flowbed.records.conversations import KIND as CONVERSATION
from flowbed.records.conversations import Conversation
from flowbed.records.issues import KIND as ISSUE
from flowbed.records.issues import Issue
from flowbed.sources import Linking
from flowbed.testing.sources import entries, pages

if TYPE_CHECKING:
    from collections.abc import Sequence
    from contextlib import AbstractAsyncContextManager
    from pathlib import Path

    from flowbed.records import Document
    from flowbed.sources import Source


def addresses(document: Document) -> list[tuple[str, str]]:
    """Return the addresses of a document, each with the id of its message or note, or an empty string.

    A note without an address of its own has that of its document, which is listed once.
    """
    if document.kind == CONVERSATION:
        return [(each.url, each.id) for each in Conversation.from_json(document.text).messages]
    if document.kind == ISSUE:
        issue = Issue.from_json(document.text)
        own = [(each.url, each.id) for each in issue.notes if each.url != issue.url]
        return [(issue.url, ""), *own] if issue.url else own
    return [(str(document.metadata["url"]), "")] if "url" in document.metadata else []


class LinkingContract(ABC):
    """Tests of a source of some documents with addresses, each message and note with its own.

    `missing` are addresses of the same vendor that none of them has; `{site}` in them is where the others are.
    """

    missing: Sequence[str]

    @abstractmethod
    def opened(self, folder: Path) -> AbstractAsyncContextManager[Source]:
        """Write or serve the documents, and open their source. After that it can still be asked for links."""

    @pytest.fixture
    async def read(self, tmp_path: Path) -> tuple[Linking, str, list[Document]]:
        """A source after a fetch, its cursor, and its documents. What it was read from does not answer any more."""
        async with self.opened(tmp_path) as source:
            fetched = await pages(source)
            documents = [each.read() for each in entries(fetched)]
        assert isinstance(source, Linking)
        assert documents
        return source, fetched[-1].cursor, documents

    async def test_linked_address_names_its_document_and_item(
        self, read: tuple[Linking, str, list[Document]]
    ) -> None:
        """Each address of a document is that of the document, and of its message or note."""
        source, cursor, documents = read
        for document in documents:
            for url, item in addresses(document):
                assert url
                found = source.linked(url, cursor)
                assert found is not None, url
                assert document.id in found.documents
                assert not item or found.item == item

    async def test_linked_address_of_another_site_is_none(
        self, read: tuple[Linking, str, list[Document]]
    ) -> None:
        """The same path elsewhere is no address of this source, and neither is another page of its site."""
        source, cursor, documents = read
        url = urlsplit(addresses(documents[0])[0][0])
        assert source.linked(url._replace(netloc="elsewhere.example").geturl(), cursor) is None
        assert source.linked(f"{url.scheme}://{url.netloc}/help/about", cursor) is None

    async def test_linked_address_of_something_missing_says_why(
        self, read: tuple[Linking, str, list[Document]]
    ) -> None:
        """What the source does not have is explained, in a sentence without a line break."""
        source, cursor, documents = read
        url = urlsplit(addresses(documents[0])[0][0])
        for link in self.missing:
            found = source.linked(link.replace("{site}", f"{url.scheme}://{url.netloc}"), cursor)
            assert found is not None, link
            assert found.absent
            assert "\n" not in found.absent

    async def test_linked_before_a_fetch_or_with_another_cursor_fails_nowhere(
        self, read: tuple[Linking, str, list[Document]]
    ) -> None:
        """A cursor that says nothing is that of a source that was not read yet."""
        source, _, documents = read
        for document in documents:
            for url, _ in addresses(document):
                for cursor in ("", "{", "z!", "[1, 2]", '{"1": 2}'):
                    found = source.linked(url, cursor)
                    assert found is not None
                    assert found.absent or document.id in found.documents
