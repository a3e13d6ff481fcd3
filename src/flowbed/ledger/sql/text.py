"""What texts a ledger can hold, wherever it is kept: the rule is one, so that a project can move."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from flowbed.errors import Rejected

if TYPE_CHECKING:
    from collections.abc import Iterable

ID_BYTES = 1_024  # DynamoDB's limit on a sort key; Postgres indexes up to 2,704
_UNFIT = re.compile("[\0\ud800-\udfff]")  # Postgres has no NUL, and UTF-8 no half of a character
_UTF8_MOST = 4  # bytes of a character


def unfit(text: str) -> bool:
    """Tell whether a text holds what no ledger can hold: a NUL, or half of a character."""
    return _UNFIT.search(text) is not None


def require_fit(ids: Iterable[str]) -> None:
    """Let ids of documents and chunks through that every ledger can hold.

    Raises:
        Rejected: one cannot be; the message names it.
    """
    for each in ids:
        if unfit(each):
            raise Rejected(f"id {shown(each[:200])!r} holds a NUL or half of a character: give it another id")
        if len(each) * _UTF8_MOST > ID_BYTES and len(each.encode()) > ID_BYTES:
            raise Rejected(f"id {each[:100]!r}... is longer than {ID_BYTES:,} bytes: give it a shorter one")


def shown(text: str) -> str:
    """Write what no ledger can hold so that a person can read it, and leave everything else."""
    return _UNFIT.sub(lambda found: f"\\u{ord(found[0]):04x}", text)
