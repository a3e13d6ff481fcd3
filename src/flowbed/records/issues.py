"""What a source of issues writes as the text of a document, and the chunker reads."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import orjson

from flowbed.errors import Rejected

KIND = "issue"


@dataclass(frozen=True, slots=True, kw_only=True)
class Note:
    """One note on an issue, in Markdown; `created_at` is as the tracker writes it."""

    id: str
    author: str
    body: str
    url: str = ""
    created_at: str = ""


@dataclass(frozen=True, kw_only=True)
class Issue:
    """The texts of an issue or merge request: its description in Markdown, and its notes, oldest first.

    The title is that of its document, and what all of its chunks share is the document's metadata.
    """

    description: str = ""
    labels: tuple[str, ...] = ()
    author: str = ""
    url: str = ""
    created_at: str = ""
    notes: tuple[Note, ...] = ()

    def to_json(self) -> str:
        """Return the text of its document."""
        return orjson.dumps(asdict(self)).decode()

    @classmethod
    def from_json(cls, text: str) -> Issue:
        """Parse the result of `to_json`.

        Raises:
            Rejected: `text` is no issue.
        """
        try:
            fields: dict[str, Any] = orjson.loads(text)
            notes = tuple(Note(**note) for note in fields.pop("notes"))
            return cls(**{**fields, "labels": tuple(fields["labels"])}, notes=notes)
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise Rejected(f"not an issue: {error}") from error
