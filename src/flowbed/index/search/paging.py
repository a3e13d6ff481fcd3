"""Cursors: where a search goes on after a page, in the same versions and without what was shown."""

from __future__ import annotations

import base64
import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

import orjson

from flowbed.errors import Rejected
from flowbed.index.search.hits import document_of

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from flowbed.index.search.hits import Unit
    from flowbed.records import Hit

# Hits that pages may show together: their names are in the cursor, and a reader of more wants an export.
MOST = 1_000
# Bytes of the digest of a name: among 10,000 candidates and 1,000 names, two are equal once in 28 million searches.
DIGEST = 6
# Bytes of the digest of a cursor, by which one that was altered is noticed.
SEAL = 8


@dataclass(frozen=True, kw_only=True)
class Page:
    """Where a search goes on: in `versions` (None: the newest), at the moment `now`, without the names `shown`.

    Names are digests, and `now` is seconds since 1970, from which ages count.
    """

    now: float
    versions: Mapping[str, int] | None = None
    shown: frozenset[bytes] = frozenset()


def digest_of(search: object) -> str:
    """Return a digest of everything that decides what a search finds, as JSON values."""
    return hashlib.sha256(orjson.dumps(search, option=orjson.OPT_SORT_KEYS)).hexdigest()[:16]


def name_of(hit: Hit, unit: Unit) -> bytes:
    """Return the digest of the name under which a hit counts once."""
    name = document_of(hit) if unit == "document" else f"{hit.collection}\0{hit.id}"
    return hashlib.sha256(name.encode(errors="surrogatepass")).digest()[:DIGEST]


def read_cursor(cursor: str | None, search: str, *, now: float) -> Page:
    """Read a cursor of the search with this digest; without one, return the beginning of a search at `now`.

    Raises:
        Rejected: it is damaged or altered, or of another search.
    """
    if cursor is None:
        return Page(now=now)
    try:
        head, _, names = _unsealed(cursor).partition(b"\0")
        fields = orjson.loads(head)
        versions = {str(name): int(version) for name, version in fields["versions"].items()}
        of, now = fields["search"], float(fields["now"])
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        raise Rejected("the cursor is damaged; take `next` of the page before as it is") from error
    if of != search:
        raise Rejected(
            "the cursor is of another search: repeat the one that gave it, with the same arguments"
        )
    shown = frozenset(names[start : start + DIGEST] for start in range(0, len(names), DIGEST))
    return Page(now=now, versions=versions, shown=shown)


def write_cursor(
    page: Page, hits: Sequence[Hit], unit: Unit, *, versions: Mapping[str, int], search: str
) -> str | None:
    """Write the cursor for the page after `hits`; None once pages have shown `MOST`."""
    shown = page.shown | {name_of(hit, unit) for hit in hits}
    if len(shown) >= MOST:
        return None
    head = orjson.dumps({"versions": dict(versions), "search": search, "now": page.now})
    body = b"\0".join([head, b"".join(sorted(shown))])
    return base64.urlsafe_b64encode(_seal(body) + body).decode()


def _unsealed(cursor: str) -> bytes:
    sealed = base64.b64decode(cursor.encode(), altchars=b"-_", validate=True)
    # Bits of the last character that say nothing may be altered too.
    if _seal(sealed[SEAL:]) != sealed[:SEAL] or base64.urlsafe_b64encode(sealed) != cursor.encode():
        raise ValueError("it is not as it was written")
    return sealed[SEAL:]


def _seal(body: bytes) -> bytes:
    return hashlib.sha256(body).digest()[:SEAL]
