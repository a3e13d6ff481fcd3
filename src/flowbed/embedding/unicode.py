"""Refuses texts that cannot be stored, hashed or sent."""

from __future__ import annotations

from typing import TYPE_CHECKING

from flowbed.errors import Rejected
from flowbed.records.values import count

if TYPE_CHECKING:
    from collections.abc import Sequence


def require_unicode(texts: Sequence[str]) -> None:
    """Refuse texts with lone surrogates, which no encoding can represent.

    Raises:
        Rejected: `inputs` are the positions of such texts.
    """
    broken = [position for position, text in enumerate(texts) if not _encodable(text)]
    if broken:
        raise Rejected(
            f"lone surrogates in {count(len(broken), 'text')}, which are not valid Unicode; decode their source again",
            inputs=broken,
        )


def _encodable(text: str) -> bool:
    if text.isascii():
        return True
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
