"""Two sources whose whole history is known, to compare an index with."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from flowbed.chunking import Rules, chunk
from flowbed.records import Document, Entry, Page

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping

LISTED, LOGGED = "listed", "logged"
COLLECTION = "docs"
CAPACITY = 16  # tokens: twenty words are two chunks

Content = tuple[str, str, "Mapping[str, Any]"]  # text_hash, document, metadata


@dataclass
class World:
    """The documents of the sources now, and all that there ever were; revisions number all edits."""

    revision: int = 0
    now: dict[tuple[str, str], Document] = field(default_factory=dict)
    log: list[tuple[str, str]] = field(default_factory=list)
    chunks: dict[str, list[tuple[int, Content | None]]] = field(default_factory=dict)

    def write(self, name: tuple[str, str], text: str | None) -> None:
        """Edit, add or (None) remove a document."""
        self.revision += 1
        self.log.append(name)
        source, document = name
        there: dict[str, Content] = {}
        if text is None:
            self.now.pop(name, None)
        else:
            self.now[name] = Document(
                id=document, kind="text", text=text, metadata={"revision": self.revision}
            )
            cut = chunk(self.now[name], rules(source), count_words)
            there = {each.id: (each.text_hash, each.text, dict(each.metadata)) for each in cut}
        for key in {*there, *(key for key in self.chunks if key.startswith(f"{source}#{document}#"))}:
            self.chunks.setdefault(key, []).append((self.revision, there.get(key)))

    def live(self) -> dict[str, Content]:
        """Return the rows that an index of the sources has."""
        newest = {key: timeline[-1][1] for key, timeline in self.chunks.items()}
        return {key: content for key, content in newest.items() if content is not None}


@dataclass(frozen=True)
class Listed:
    """A source that lists all its documents at each fetch."""

    world: World
    location: str = "a world of its own"

    async def fetch(self, cursor: str) -> AsyncIterator[Page]:
        """List everything, in one page."""
        now = [(name, document) for (source, name), document in self.world.now.items() if source == LISTED]
        yield Page(entries=[entry(name, document) for name, document in sorted(now)], complete=True)


@dataclass(frozen=True)
class Logged:
    """A source that lists only what changed since its cursor."""

    world: World
    location: str = "a world of its own"

    async def fetch(self, cursor: str) -> AsyncIterator[Page]:
        """List what changed, in one page."""
        names = {name for source, name in self.world.log[int(cursor or 0) :] if source == LOGGED}
        now = {name: self.world.now.get((LOGGED, name)) for name in sorted(names)}
        yield Page(
            entries=[entry(name, document) for name, document in now.items() if document is not None],
            gone=[name for name, document in now.items() if document is None],
            cursor=str(len(self.world.log)),
        )


def entry(name: str, document: Document) -> Entry:
    """List the current state of a document."""
    return Entry(document=name, etag=str(document.metadata["revision"]), read=lambda: document)


def rules(source: str) -> Rules:
    """Return the rules that cut a long document in two."""
    return Rules(source=source, collections=(COLLECTION,), capacity=CAPACITY)


def count_words(text: str) -> int:
    """Count tokens as the seeded embedder does."""
    return len(text.split())
