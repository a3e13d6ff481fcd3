"""JSON Lines: one document per line."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from flowbed.errors import Rejected
from flowbed.records import Document, canonical
from flowbed.records.values import require_number, shown
from flowbed.sources.lines import Lines
from flowbed.sources.options import SourceOptions

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from flowbed.records import Scalar

KNOWN = ("id", "text", "title", "metadata", "kind")
KINDS = ("text", "markdown")

_ABSENT = object()


def open_jsonl(
    location: str, *, folder: Path, options: Mapping[str, object], clock: Callable[[], int]
) -> Lines:
    """Open JSON Lines: a file, a folder of `*.jsonl`, or a pattern.

    Options name the fields: `id` (default: `id` or `_id`), `text`, `title`, and `metadata`, a list of fields to filter
    by; dots reach into nested objects. `kind` is the kind of text: `text` or `markdown`.

    Raises:
        Misconfigured: an option is unknown or invalid.
    """
    values = SourceOptions("jsonl", options, KNOWN)
    named = values.string("id", "")
    fields = Fields(
        id=(named,) if named else ("id", "_id"),
        text=values.string("text", "text"),
        title=values.string("title", "title"),
        metadata=values.strings("metadata"),
        kind=values.choice("kind", KINDS),
    )
    return Lines(
        location=location,
        folder=folder,
        suffixes=(".jsonl", ".ndjson"),
        identity=fields.identity,
        document=fields.document,
        fingerprint=hashlib.sha256(canonical(asdict(fields))).hexdigest()[:16],
        clock=clock,
    )


@dataclass(frozen=True, kw_only=True)
class Fields:
    """The fields of a record that make its document."""

    id: tuple[str, ...]
    text: str
    title: str
    metadata: tuple[str, ...]
    kind: str

    def identity(self, record: Mapping[str, Any]) -> str:
        """Return the id of a record.

        Raises:
            Rejected: it is missing or invalid.
        """
        value = None
        for name in self.id:
            value = _value(record, name)
            if value is not None:
                break
        # A bool is an int in Python, but not an id.
        if isinstance(value, int) and not isinstance(value, bool):
            return str(value)
        if not isinstance(value, str) or not value.strip():
            problem = "is missing" if value is None else f"must be a string or an integer, not {shown(value)}"
            raise Rejected(f"{' or '.join(self.id)} {problem}")
        return value

    def document(self, name: str, record: Mapping[str, Any], _text: str) -> Callable[[], Document]:
        """Return a function that creates the document of a record.

        Raises:
            Rejected: the text, title or a field to filter by is missing or invalid.
        """
        return partial(
            Document,
            id=name,
            kind=self.kind,
            text=_string(record, self.text, _ABSENT),
            title=_string(record, self.title, ""),
            metadata={
                name: scalar for name in self.metadata if (scalar := _scalar(record, name)) is not None
            },
        )


def _value(record: Mapping[str, Any], name: str) -> Any:  # any JSON value
    """Look up a field, first by its whole name and then along its dots; returns None if it is missing."""
    if name in record:
        return record[name]
    if "." not in name:
        return None
    value: Any = record
    for part in name.split("."):
        if not isinstance(value, dict) or part not in value:
            return None
        value = value[part]
    return value


def _string(record: Mapping[str, Any], name: str, default: object) -> str:
    value = _value(record, name)
    if value is None:
        value = default
    if not isinstance(value, str):
        raise Rejected(
            f"{name} is missing" if value is _ABSENT else f"{name} must be a string, not {shown(value)}"
        )
    return value


def _scalar(record: Mapping[str, Any], name: str) -> Scalar | None:
    """Read a field to filter by; nested values become their JSON."""
    value = _value(record, name)
    if isinstance(value, dict | list):
        try:
            return json.dumps(value, ensure_ascii=False, separators=(",", ":"))
        except RecursionError as error:
            raise Rejected(f"{name} is nested too deeply") from error
    if isinstance(value, float | int) and not isinstance(value, bool):
        return require_number(value, name)
    scalar: Scalar | None = value
    return scalar
