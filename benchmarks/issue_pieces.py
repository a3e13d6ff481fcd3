"""Other pieces of issues than those that Flowbed makes, to compare what they find."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from flowbed.records.issues import Issue

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from flowbed.records import Document
    from flowbed.records.issues import Note

# What templates of issues tell the one who writes; readers do not see it.
COMMENT = re.compile(r"<!--.*?(?:-->|\Z)", re.DOTALL)


@dataclass(frozen=True, kw_only=True)
class Pieces:
    """What is changed in an issue before it is chunked as Flowbed does it.

    `visible` leaves comments of HTML out. `gathered` joins notes that follow each other, as long as they fill a chunk;
    `whole` joins them with the description, so that one chunk may have the end of it and the first notes.
    """

    visible: bool = False
    gathered: bool = False
    whole: bool = False


TRIED = {
    "without comments of templates": Pieces(visible=True),
    "notes gathered until they are full": Pieces(gathered=True),
    "description and notes in order": Pieces(whole=True),
}


def changed(document: Document, pieces: Pieces, capacity: int, count: Callable[[str], int]) -> Document:
    """Return an issue with that changed."""
    issue = Issue.from_json(document.text)
    if pieces.visible:
        notes = tuple(replace(note, body=COMMENT.sub("", note.body)) for note in issue.notes)
        issue = replace(issue, description=COMMENT.sub("", issue.description), notes=notes)
    if pieces.whole:
        texts = [issue.description, *map(_line, issue.notes)]
        issue = replace(issue, description="\n\n".join(text for text in texts if text.strip()), notes=())
    if pieces.gathered:
        # Without what is sent in front of them: the title and labels.
        room = capacity - count(f"{document.title}\nlabels: {', '.join(issue.labels)}\n\n")
        issue = replace(issue, notes=tuple(_gathered(issue.notes, max(room, capacity // 2), count)))
    return replace(document, text=issue.to_json())


def _gathered(notes: Sequence[Note], room: int, count: Callable[[str], int]) -> Iterator[Note]:
    """Join notes in order while they fit together."""
    held: list[Note] = []
    tokens = 0
    for note in notes:
        size = count(_line(note)) + 2
        if held and tokens + size > room:
            yield _joined(held)
            held, tokens = [], 0
        held.append(note)
        tokens += size
    if held:
        yield _joined(held)


def _joined(notes: Sequence[Note]) -> Note:
    if len(notes) == 1:
        return notes[0]
    return replace(notes[0], author="", body="\n\n".join(map(_line, notes)))


def _line(note: Note) -> str:
    return f"{note.author}: {note.body}"
