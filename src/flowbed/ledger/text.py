"""Which texts a ledger can store. Every kind of ledger has the same rule, so that a project can move between them."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from flowbed.errors import Rejected

if TYPE_CHECKING:
    from collections.abc import Iterable

ID_BYTES = 1_024  # DynamoDB's limit on a sort key; Postgres indexes up to 2,704
_UNSTORABLE = re.compile(
    "[\0\ud800-\udfff]"
)  # Postgres stores no NUL, and UTF-8 cannot encode a lone surrogate
_UTF8_MOST = 4  # bytes per character


def is_unstorable(text: str) -> bool:
    """Return whether a text holds a NUL or a lone surrogate, which no ledger can store."""
    return _UNSTORABLE.search(text) is not None


def require_storable(ids: Iterable[str]) -> None:
    """Check that every ledger can store these ids of documents and chunks.

    Raises:
        Rejected: one cannot be stored; the message names it.
    """
    every = list(ids)
    # All at once, which takes a tenth of the time: hardly ever is one refused.
    if max(map(len, every), default=0) * _UTF8_MOST <= ID_BYTES and not is_unstorable("".join(every)):
        return
    for id_ in every:
        if is_unstorable(id_):
            raise Rejected(
                f"id {escaped(id_[:200])!r} holds a NUL or half of a character: give it another id"
            )
        if len(id_) * _UTF8_MOST > ID_BYTES and len(id_.encode()) > ID_BYTES:
            raise Rejected(f"id {id_[:100]!r}... is longer than {ID_BYTES:,} bytes: give it a shorter one")


def escaped(text: str) -> str:
    r"""Replace each character that no ledger can store by its escape, such as `\u0000`."""
    return _UNSTORABLE.sub(lambda found: f"\\u{ord(found[0]):04x}", text)
