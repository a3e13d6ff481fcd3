"""What a parser finds in a file, and the chunker reads: parts such as pages, and the structure of each."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, Any

import orjson

from flowbed.errors import Rejected

if TYPE_CHECKING:
    from collections.abc import Mapping

    from flowbed.records import Scalar

# The kinds of documents whose text is an extract: files of documents, and source code.
EXTRACT, CODE = "extract", "code"


class Form(StrEnum):
    """What a block is."""

    HEADING = "heading"
    CODE = "code"
    TABLE = "table"
    PARAGRAPH = "paragraph"
    DEFINITION = "definition"


@dataclass(frozen=True, slots=True, kw_only=True)
class Block:
    """A block of a part, by offsets into its text.

    `level` is that of a heading (1 to 6), or how deep the block is nested. `rows` is the offset where the first row of
    a table after its header begins. `name` is the text of a heading, or the name of a definition, empty for what has
    none. `anchor` is the fragment of an address that opens a heading.
    """

    form: Form
    start: int
    end: int
    level: int = 0
    rows: int = 0
    name: str = ""
    anchor: str = ""


FIELDS = ("form", "start", "end", "level", "rows", "name", "anchor")


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """A part of a file that no chunk crosses: a page, a slide, a sheet, or all of it.

    A heading without text is one of an earlier part that goes on.

    `place` says which one, as metadata; `fragment` is the end of an address that opens it; `headings` are those above
    it, outermost first, joined with ` > `.
    """

    text: str
    blocks: tuple[Block, ...] = ()
    place: Mapping[str, Scalar] = field(default_factory=dict)
    fragment: str = ""
    headings: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Extract:
    """The text of a file; `title` is its own, and `url` its address without a fragment, empty if it has none."""

    parts: tuple[Part, ...]
    title: str = ""
    url: str = ""

    def to_json(self) -> str:
        """Return the text of its document."""
        return orjson.dumps(
            {
                "title": self.title,
                "url": self.url,
                "parts": [
                    {
                        "text": part.text,
                        "place": part.place,
                        "fragment": part.fragment,
                        "headings": part.headings,
                        # Most of a long page is blocks, so they have no names.
                        "blocks": [[getattr(block, name) for name in FIELDS] for block in part.blocks],
                    }
                    for part in self.parts
                ],
            }
        ).decode()

    @classmethod
    def from_json(cls, text: str | bytes) -> Extract:
        """Parse the result of `to_json`.

        Raises:
            Rejected: `text` is no extract.
        """
        try:
            fields: dict[str, Any] = orjson.loads(text)
            return cls(**{**fields, "parts": tuple(map(_part, fields["parts"]))})
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise Rejected(f"not an extract: {error}") from error


def _part(fields: dict[str, Any]) -> Part:
    blocks = tuple(
        Block(**dict(zip(FIELDS, [Form(form), *rest], strict=True))) for form, *rest in fields["blocks"]
    )
    length = len(fields["text"])
    if any(not 0 <= block.start <= block.end <= length for block in blocks):
        raise ValueError("a block is not inside its text")
    return Part(**{**fields, "blocks": blocks})
