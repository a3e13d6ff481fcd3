"""Receipts from OCR: one chunk per line and one per word."""

from __future__ import annotations

import json
import math
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from flowbed.chunking.passages import chunk_metadata
from flowbed.errors import Misconfigured, Rejected
from flowbed.records import Chunk

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from flowbed.chunking import Rules
    from flowbed.records import Document, Scalar

# Facts of the whole receipt that are useful in filters.
FIELDS = ("merchant_name", "date", "total", "address")

BOX = ("x", "y", "width", "height")

# Words repeat: the 72,000 words of the ICDAR 2019 receipts are 12,000 distinct ones.
REMEMBERED = 65_536


def chunk_receipt(document: Document, rules: Rules, count: Callable[[str], int]) -> list[Chunk]:
    """Create a chunk for each line and each word of a receipt, in the first and the second collection.

    A word is sent together with its neighbours, in reading order, so that no two words of a line are sent alike:
    `TOTAL (GRAND TOTAL 7.80)`. Neighbours that would exceed the capacity are left out; the text of a line or word
    itself is never cut. Blank ones give no chunks.

    Raises:
        Rejected: the receipt is malformed; the message says what and where.
        Misconfigured: the rules do not name two collections.
    """
    if len(rules.collections) != 2:  # noqa: PLR2004 - lines and words
        raise Misconfigured(
            f"source {rules.source!r} needs two collections for receipts: one for lines, one for words"
        )
    receipt = _parsed(document)
    image = _image(receipt, document)
    number = identifier(receipt, "receipt_id", document.id)
    shared = chunk_metadata(
        document, rules, {"image_id": image, "receipt_id": number, **_fields(receipt, document)}
    )
    prefix = f"IMAGE#{image}#RECEIPT#{number:05d}"
    lines = _numbered(receipt, "lines", "line_id", document.id)
    of_words: list[tuple[str, str, str, dict[str, Scalar]]] = []
    of_lines: list[tuple[str, str, str, dict[str, Scalar]]] = []
    texts = [_text(line, f"{document.id}, line {line['line_id']}") for line in lines]
    for position, line in enumerate(lines):
        line_id = line["line_id"]
        where = f"{document.id}, line {line_id}"
        key = f"{prefix}#LINE#{line_id:05d}"
        metadata = {**shared, "line_id": line_id, **_box(line, where), **_around(texts, position)}
        of_lines.append((key, texts[position], texts[position], metadata))
        words = _numbered(line, "words", "word_id", where) if "words" in line else []
        row = [_text(word, f"{where}, word {word['word_id']}") for word in words]
        for place, word in enumerate(words):
            word_id = word["word_id"]
            box = _box(word, f"{where}, word {word_id}")
            metadata = {**shared, "line_id": line_id, "word_id": word_id, **box, **_around(row, place)}
            sent = _with_neighbours(row, place, rules, count)
            of_words.append((f"{key}#WORD#{word_id:05d}", row[place], sent, metadata))
    lines_to, words_to = rules.collections
    found = [(lines_to, *part) for part in of_lines] + [(words_to, *part) for part in of_words]
    return [
        Chunk(
            id=key,
            collection=collection,
            document=document.id,
            ordinal=ordinal,
            text=text,
            sent=sent,
            metadata=metadata,
            tokens=_tokens(count, sent),
        )
        for ordinal, (collection, key, text, sent, metadata) in enumerate(found)
        if text
    ]


def _parsed(document: Document) -> dict[str, Any]:
    try:
        receipt = json.loads(document.text)
    except (ValueError, RecursionError) as error:
        raise Rejected(f"{document.id}: not JSON: {error}") from error
    if not isinstance(receipt, dict):
        raise Rejected(f"{document.id}: expected a JSON object, found a {type(receipt).__name__}")
    return receipt


def _image(receipt: Mapping[str, Any], document: Document) -> str:
    image = receipt.get("image_id")
    if not isinstance(image, str) or not image or "#" in image:
        raise Rejected(f"{document.id}: image_id must be a string without '#', not {image!r}")
    return image


def identifier(item: Mapping[str, Any], name: str, where: str) -> int:
    """Return the integer that identifies a receipt, line or word.

    Raises:
        Rejected: it is missing, negative or not an integer.
    """
    value = item.get(name)
    # A bool is an int in Python, but not in a receipt.
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        raise Rejected(f"{where}: {name} must be an integer of 0 or more, not {value!r}")
    return value


def _fields(receipt: Mapping[str, Any], document: Document) -> dict[str, Scalar]:
    fields: dict[str, Scalar] = {}
    for name in FIELDS:
        value = receipt.get(name)
        if value is None or value == "":
            continue
        if not isinstance(value, str | int | float) or (
            isinstance(value, float) and not math.isfinite(value)
        ):
            raise Rejected(f"{document.id}: {name} must be a string or a number, not {value!r}")
        fields[name] = value
    return fields


def _numbered(parent: Mapping[str, Any], name: str, key: str, where: str) -> list[dict[str, Any]]:
    """Return the lines of a receipt or the words of a line; their numbers must be unique."""
    items = parent.get(name)
    if not isinstance(items, list):
        raise Rejected(f"{where}: {name} must be a list, not {items!r}")
    seen: set[int] = set()
    for item in items:
        if not isinstance(item, dict):
            raise Rejected(f"{where}: every item of {name} must be a JSON object, not {item!r}")
        number = identifier(item, key, where)
        if number in seen:
            raise Rejected(f"{where}: {key} {number} occurs twice")
        seen.add(number)
    return items


def _text(item: Mapping[str, Any], where: str) -> str:
    text = item.get("text")
    if not isinstance(text, str):
        raise Rejected(f"{where}: text must be a string, not {text!r}")
    return text.strip()


def _box(item: Mapping[str, Any], where: str) -> dict[str, Scalar]:
    """Return the bounding box, if there is one."""
    box = item.get("bounding_box")
    if box is None:
        return {}
    if not isinstance(box, dict):
        raise Rejected(f"{where}: bounding_box must be a JSON object, not {box!r}")
    sides: dict[str, Scalar] = {}
    for name in BOX:
        side = box.get(name)
        if not isinstance(side, int | float) or isinstance(side, bool) or not math.isfinite(side):
            raise Rejected(f"{where}: {name} of bounding_box must be a number, not {side!r}")
        sides[name] = side
    return sides


def _around(texts: Sequence[str], position: int) -> dict[str, Scalar]:
    """Return the nearest text before and after, if there is one."""
    around: dict[str, Scalar] = {}
    if before := _nearest(texts, range(position - 1, -1, -1)):
        around["previous"] = before
    if after := _nearest(texts, range(position + 1, len(texts))):
        around["next"] = after
    return around


def _nearest(texts: Sequence[str], positions: range) -> str:
    return next((texts[position] for position in positions if texts[position]), "")


def _with_neighbours(row: Sequence[str], place: int, rules: Rules, count: Callable[[str], int]) -> str:
    """Append as many words around a word as the capacity allows."""
    for reach in range(rules.neighbours, 0, -1):
        around = [text for text in row[max(0, place - reach) : place + reach + 1] if text]
        if len(around) > 1:
            sent = f"{row[place]} ({' '.join(around)})"
            if _tokens(count, sent) <= rules.capacity:
                return sent
    return row[place]


@lru_cache(maxsize=REMEMBERED)
def _tokens(count: Callable[[str], int], text: str) -> int:
    return count(text)
