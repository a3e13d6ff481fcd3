"""Receipts as items of an existing table of DynamoDB: its keys, and what of its items becomes a record. No I/O.

PK IMAGE#{image}, SK RECEIPT#{receipt}[#LINE#{line}[#WORD#{word}]], RECEIPT#{receipt}#PLACE or #METADATA
"""

from __future__ import annotations

import base64
import re
from collections import defaultdict
from typing import TYPE_CHECKING, Any

from flowbed.errors import Rejected

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

PARTITION = re.compile(r"IMAGE#([^#]+)")
SORT = re.compile(r"RECEIPT#(\d+)(?:#LINE#(\d+)(?:#WORD#(\d+))?)?")
# What names the merchant, the newer kind of item first.
PLACES = ("RECEIPT_PLACE", "RECEIPT_METADATA")
NOISE = "NOISE"


def receipt_key(item: Mapping[str, Any]) -> tuple[str, int] | None:
    """Return the image and the number of the receipt that an item is of, None for another item."""
    image = PARTITION.fullmatch(_text(item, "PK"))
    receipt = SORT.match(_text(item, "SK"))
    return (image[1], int(receipt[1])) if image and receipt else None


def receipt_record(image: str, receipt: int, items: Iterable[Mapping[str, Any]]) -> dict[str, Any] | None:
    """Return the record of a receipt: its lines with their words, without noise; None if there is no such receipt.

    Raises:
        Rejected: an item lacks what it should have.
    """
    named: dict[str, Mapping[str, Any]] = {}
    lines: dict[int, dict[str, Any]] = {}
    words: defaultdict[int, dict[int, dict[str, Any]]] = defaultdict(dict)
    for item in items:
        kind = _text(item, "TYPE")
        if kind in {"RECEIPT_LINE", "RECEIPT_WORD"}:
            if _is_noise(item):
                continue
            line, word = _numbers(item)
            found = {"text": _required_text(item), **_box(item)}
            if kind == "RECEIPT_LINE":
                lines[line] = {"line_id": line, **found}
            else:
                words[line][word] = {"word_id": word, **found}
        else:
            named[kind] = item
    if "RECEIPT" not in named:
        return None
    record: dict[str, Any] = {"image_id": image, "receipt_id": receipt}
    merchants = (_text(named[kind], "merchant_name").strip() for kind in PLACES if kind in named)
    if merchant := next(filter(None, merchants), ""):
        record["merchant_name"] = merchant
    # A word of a line that is noise is noise as well.
    record["lines"] = [
        {**lines[line], "words": [words[line][word] for word in sorted(words[line])]}
        for line in sorted(lines)
    ]
    return record


def value_of(value: Mapping[str, Any]) -> Any:
    """Return a value in DynamoDB's words as Python's; bytes as their base64, which JSON can hold."""
    ((kind, content),) = value.items()
    if kind == "N":
        return int(content) if content.lstrip("-").isdecimal() else float(content)
    if kind == "M":
        return {name: value_of(each) for name, each in content.items()}
    if kind == "L":
        return [value_of(each) for each in content]
    if kind == "B":
        return base64.b64encode(content).decode()
    if kind == "BS":
        return [base64.b64encode(each).decode() for each in content]
    return None if kind == "NULL" else content


def _is_noise(item: Mapping[str, Any]) -> bool:
    return bool(value_of(item.get("is_noise", {"BOOL": False}))) or _text(item, "embedding_status") == NOISE


def _numbers(item: Mapping[str, Any]) -> tuple[int, int]:
    match = SORT.fullmatch(_text(item, "SK"))
    is_word = _text(item, "TYPE") == "RECEIPT_WORD"
    if match is None or match[2] is None or (match[3] is None) is is_word:
        raise Rejected(f"{_where(item)} is not the key of a line or word")
    return int(match[2]), int(match[3] or 0)


def _box(item: Mapping[str, Any]) -> dict[str, Any]:
    """Return the bounding box as it is: relative to the image, and y upwards."""
    box = item.get("bounding_box")
    return {"bounding_box": value_of(box)} if box and "M" in box else {}


def _required_text(item: Mapping[str, Any]) -> str:
    text = item.get("text", {}).get("S")
    if not isinstance(text, str):
        raise Rejected(f"{_where(item)} has no text")
    return text


def _text(item: Mapping[str, Any], name: str) -> str:
    return str(item.get(name, {}).get("S", ""))


def _where(item: Mapping[str, Any]) -> str:
    return f"{_text(item, 'PK')} {_text(item, 'SK')}"
