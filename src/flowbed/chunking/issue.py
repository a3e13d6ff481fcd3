"""Issues and merge requests: the description by its headings, and each note by itself."""

from __future__ import annotations

import zlib
from functools import lru_cache
from typing import TYPE_CHECKING

from flowbed.chunking.atoms import divided
from flowbed.chunking.markdown import outline
from flowbed.chunking.metadata import chunk_metadata, require_modest
from flowbed.chunking.passages import CHARACTERS_PER_TOKEN, REMEMBERED, TITLE_SHARE, Piece, shortened
from flowbed.records import Chunk
from flowbed.records.issues import Issue

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from flowbed.chunking import Rules
    from flowbed.records import Document, Scalar
    from flowbed.records.issues import Note

# A note of fewer tokens, such as "+1" or "same here", says too little by itself: it joins those beside it. With 60, 3
# points fewer of questions found their issue among the first five (docs/benchmarks.md).
SHORT_NOTE = 120
# In a small window a short note has at most this part of it.
SHORT_SHARE = 2

# Labels, and the author of a note, each take at most this part of what is sent.
CONTEXT_SHARE = 8

# Names in the metadata of notes that were gathered.
MOST_AUTHORS = 20


def chunk_issue(document: Document, rules: Rules, count: Callable[[str], int]) -> list[Chunk]:
    """Split an issue into pieces of its description and of its notes.

    Title and labels, and the author of a note, are sent in front of every piece; none of them is in `text`. The id of a
    note's chunk contains the id of the note, and what is gathered depends on the notes close by, so that a new or
    changed note leaves all other chunks as they are.

    Raises:
        Rejected: the document's text is no issue, or repeats too much.
    """
    build = _Builder(document, rules, Issue.from_json(document.text), count)
    build.description()
    for notes in build.gathered():
        build.notes(notes)
    require_modest([document.title, *document.metadata.values()], len(build.chunks))
    return build.chunks


class _Builder:
    """The chunks of one issue."""

    def __init__(self, document: Document, rules: Rules, issue: Issue, count: Callable[[str], int]) -> None:
        self.chunks: list[Chunk] = []
        self._document, self._rules, self._issue = document, rules, issue
        self._count = lru_cache(maxsize=REMEMBERED)(count)

        def turn() -> None:
            count("")  # which raises where the work is no longer wanted

        self._turn = turn
        self._title = " ".join(document.title.split())

    def description(self) -> None:
        """Add the description; the title alone where there is none, so that it can be found."""
        own = self._own(self._issue)
        prefix = f"{self._rules.source}#{self._document.id}"
        if self._issue.description.strip():
            front = self._front()
            for piece in self._pieces(self._issue.description, front):
                self._add(f"{prefix}#{len(self.chunks):05d}", piece, front, own)
        elif self._title:
            labels = self._context("labels: ", ", ".join(self._issue.labels))
            sent = shortened(self._title, self._rules.capacity - self._count(labels), self._count)
            self._add(f"{prefix}#00000", Piece(0, 0, self._title), sent + labels, own, sent="")

    def notes(self, notes: Sequence[Note]) -> None:
        """Add one note, or several short ones as one chunk."""
        front = self._front("" if len(notes) > 1 else notes[0].author)
        own = {**self._own(notes[0]), "note": notes[0].id}
        prefix = f"{self._rules.source}#{self._document.id}#note_{notes[0].id}"
        if len(notes) > 1:
            names = list(dict.fromkeys(note.author for note in notes))
            own["author"] = ", ".join(names[:MOST_AUTHORS])
            own["notes"] = " ".join(note.id for note in notes)
            self._add(f"{prefix}#00000", Piece(0, 0, _joined(notes)), front, own)
            return
        for number, piece in enumerate(self._pieces(notes[0].body, front)):
            self._add(f"{prefix}#{number:05d}", piece, front, own)

    def gathered(self) -> Iterator[Sequence[Note]]:
        """Yield the notes with text one by one, and short ones that follow each other together."""
        short = min(SHORT_NOTE, self._rules.capacity // SHORT_SHARE)
        run: list[Note] = []
        for note in self._issue.notes:
            if not note.body.strip():
                continue
            if len(note.body) <= short * CHARACTERS_PER_TOKEN and self._count(note.body.strip()) < short:
                run.append(note)
                continue
            yield from self._groups(run)
            run = []
            yield (note,)
        yield from self._groups(run)

    def _groups(self, run: Sequence[Note]) -> Iterator[Sequence[Note]]:
        """Divide short notes into groups that fit, always before the note whose id has the highest hash.

        Where to cut does not depend on what the notes say, so that a changed note moves the ends of its own group only.
        """
        room = self._rules.capacity - self._count(self._front())
        tokens = [self._count(_line(note)) for note in run]
        hashes = [zlib.crc32(note.id.encode(errors="surrogatepass")) for note in run]
        stretches = [(0, len(run))] if run else []
        while stretches:
            first, last = stretches.pop()
            if last - first == 1 or (
                sum(tokens[first:last]) <= room and self._fits(_joined(run[first:last]), room)
            ):
                yield run[first:last]
                continue
            best = max(range(first + 1, last), key=lambda place: hashes[place])
            stretches += [(best, last), (first, best)]

    def _fits(self, text: str, room: int) -> bool:
        return len(text) <= room * CHARACTERS_PER_TOKEN and self._count(text) <= room

    def _pieces(self, text: str, front: str) -> list[Piece]:
        return divided(
            text, outline(text, self._turn), self._rules.capacity - self._count(front), self._count
        )

    def _front(self, author: str = "") -> str:
        """Return what is sent in front of a piece: the title, the labels, and the author of a note."""
        capacity = self._rules.capacity
        title = shortened(self._title, capacity // TITLE_SHARE, self._count) if self._title else ""
        by = self._context("note by ", author)
        labels = self._context("labels: ", ", ".join(self._issue.labels))
        for parts in (title + labels + by, title + by, title, ""):
            # In a window of a few tokens, the text needs its half.
            if self._count(parts) <= capacity // 2:
                return f"{parts.strip()}\n\n" if parts else ""
        return ""

    def _context(self, name: str, value: str) -> str:
        """Return a line of context, shortened to its share; empty where there is no value."""
        value = " ".join(value.split())
        if not value:
            return ""
        return f"\n{name}{shortened(value, self._rules.capacity // CONTEXT_SHARE, self._count)}"

    def _own(self, of: Issue | Note) -> dict[str, Scalar]:
        own: dict[str, Scalar] = {
            "url": of.url or self._issue.url,
            "author": of.author,
            "created_at": of.created_at,
        }
        return {name: value for name, value in own.items() if value}

    def _add(
        self, name: str, piece: Piece, front: str, own: dict[str, Scalar], *, sent: str | None = None
    ) -> None:
        sent = front + (piece.context + piece.text if sent is None else sent)
        own = {**own, **({"title": self._title} if self._title else {})}
        if piece.end:
            own.update(start=piece.start, end=piece.end)
        if piece.headings:
            own["headings"] = piece.headings
        self.chunks.append(
            Chunk(
                id=name,
                collection=self._rules.collections[0],
                document=self._document.id,
                ordinal=len(self.chunks),
                text=piece.text,
                sent=sent,
                metadata=chunk_metadata(self._document, self._rules, own),
                tokens=self._count(sent),
            )
        )


def _line(note: Note) -> str:
    return f"{note.author}: {note.body.strip()}" if note.author else note.body.strip()


def _joined(notes: Sequence[Note]) -> str:
    return "\n\n".join(map(_line, notes))
