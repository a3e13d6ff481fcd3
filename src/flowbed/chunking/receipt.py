"""Receipts from OCR: one chunk per line and one per word."""

from __future__ import annotations

import json
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from flowbed.chunking.metadata import chunk_metadata, require_modest
from flowbed.errors import Misconfigured, Rejected
from flowbed.records import Chunk
from flowbed.records.values import LARGEST, require_number, shown

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from flowbed.chunking import Rules
    from flowbed.records import Document, Scalar

# Facts of the whole receipt that are useful in filters.
FIELDS = ("merchant_name", "date", "total", "address")

BOX = ("x", "y", "width", "height")

# A line of a receipt has some dozens of characters. Lines and words are never cut, so a text without end would be one
# request.
LONGEST_TEXT = 4_096

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
    for line, text, around in zip(lines, texts, _around(texts), strict=True):
        line_id = line["line_id"]
        where = f"{document.id}, line {line_id}"
        key = f"{prefix}#LINE#{line_id:05d}"
        metadata = {**shared, "line_id": line_id, **_box(line, where), **around}
        of_lines.append((key, text, text, metadata))
        words = _numbered(line, "words", "word_id", where) if "words" in line else []
        row = [_text(word, f"{where}, word {word['word_id']}") for word in words]
        for place, (word, beside) in enumerate(zip(words, _around(row), strict=True)):
            word_id = word["word_id"]
            box = _box(word, f"{where}, word {word_id}")
            metadata = {**shared, "line_id": line_id, "word_id": word_id, **box, **beside}
            sent = _with_neighbours(row, place, rules, count)
            of_words.append((f"{key}#WORD#{word_id:05d}", row[place], sent, metadata))
    lines_to, words_to = rules.collections
    require_modest(shared.values(), len(of_lines) + len(of_words))
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
        raise Rejected(f"{document.id}: image_id must be a string without '#', not {shown(image)}")
    return image


def identifier(item: Mapping[str, Any], name: str, where: str) -> int:
    """Return the integer that identifies a receipt, line or word.

    Raises:
        Rejected: it is missing, negative or not an integer.
    """
    value = item.get(name)
    # A bool is an int in Python, but not in a receipt.
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value < LARGEST:
        raise Rejected(
            f"{where}: {name} must be an integer of 0 or more, and of at most 64 bits, not {shown(value)}"
        )
    return value


def _fields(receipt: Mapping[str, Any], document: Document) -> dict[str, Scalar]:
    fields: dict[str, Scalar] = {}
    for name in FIELDS:
        value = receipt.get(name)
        if value is None or (isinstance(value, str) and not value.strip()):
            continue
        if not isinstance(value, str | int | float):
            raise Rejected(f"{document.id}: {name} must be a string or a number, not {shown(value)}")
        fields[name] = (
            value if isinstance(value, str | bool) else require_number(value, f"{document.id}: {name}")
        )
    return fields


def _numbered(parent: Mapping[str, Any], name: str, key: str, where: str) -> list[dict[str, Any]]:
    """Return the lines of a receipt or the words of a line; their numbers must be unique."""
    items = parent.get(name)
    if not isinstance(items, list):
        raise Rejected(f"{where}: {name} must be a list, not {shown(items)}")
    seen: set[int] = set()
    for item in items:
        if not isinstance(item, dict):
            raise Rejected(f"{where}: every item of {name} must be a JSON object, not {shown(item)}")
        number = identifier(item, key, where)
        if number in seen:
            raise Rejected(f"{where}: {key} {number} occurs twice")
        seen.add(number)
    return items


def _text(item: Mapping[str, Any], where: str) -> str:
    text = item.get("text")
    if not isinstance(text, str):
        raise Rejected(f"{where}: text must be a string, not {shown(text)}")
    if len(text) > LONGEST_TEXT:
        raise Rejected(
            f"{where}: text has {len(text):,} characters, and a line or word of a receipt at most {LONGEST_TEXT:,};"
            " list longer texts in a source of kind jsonl"
        )
    return text.strip()


def _box(item: Mapping[str, Any], where: str) -> dict[str, Scalar]:
    """Return the bounding box, if there is one."""
    box = item.get("bounding_box")
    if box is None:
        return {}
    if not isinstance(box, dict):
        raise Rejected(f"{where}: bounding_box must be a JSON object, not {shown(box)}")
    return {name: require_number(box.get(name), f"{where}: {name} of bounding_box") for name in BOX}


def _around(texts: Sequence[str]) -> list[dict[str, Scalar]]:
    """Return, for each text, the nearest text before and after, if there is one."""
    around: list[dict[str, Scalar]] = [{} for _ in texts]
    # Texts may be blank, and looking for the nearest one from each of them would take the square of their number.
    for name, places in (("previous", range(len(texts))), ("next", reversed(range(len(texts))))):
        nearest = ""
        for place in places:
            if nearest:
                around[place][name] = nearest
            nearest = texts[place] or nearest
    return around


def _with_neighbours(row: Sequence[str], place: int, rules: Rules, count: Callable[[str], int]) -> str:
    """Append as many words around a word as the capacity allows."""
    for reach in range(min(rules.neighbours, len(row)), 0, -1):
        around = [text for text in row[max(0, place - reach) : place + reach + 1] if text]
        if len(around) > 1:
            sent = f"{row[place]} ({' '.join(around)})"
            if _tokens(count, sent) <= rules.capacity:
                return sent
    return row[place]


@lru_cache(maxsize=REMEMBERED)
def _tokens(count: Callable[[str], int], text: str) -> int:
    return count(text)
