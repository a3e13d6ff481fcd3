"""The metadata of chunks: their own fields, those of their document, and what is refused."""

from __future__ import annotations

from typing import TYPE_CHECKING

from flowbed.errors import Rejected
from flowbed.records.values import require_number, shown

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from flowbed.chunking import Rules
    from flowbed.records import Document, Scalar

# Metadata is stored with each chunk. Beyond this many characters for all chunks of a document, a long field makes
# more data than the text does.
MOST_REPEATED = 64_000_000


def chunk_metadata(document: Document, rules: Rules, own: Mapping[str, Scalar]) -> dict[str, Scalar]:
    """Merge the chunk's own metadata with the document's; none hides another.

    A field of the document whose name Flowbed uses itself becomes `document_<name>`; where the document has that field
    as well, `document_` is put in front once more.
    """
    ours: dict[str, Scalar] = {"source": rules.source, "document": document.id, **own}
    merged = {**document.metadata, **ours}
    for name in ours.keys() & document.metadata.keys():
        other = f"document_{name}"
        while other in merged:
            other = f"document_{other}"
        merged[other] = document.metadata[name]
    return merged


def require_scalar(name: str, value: object) -> None:
    """Check a field to filter by.

    Raises:
        Rejected: it is neither a string, a number of at most 64 bits, true nor false.
    """
    if isinstance(value, str | bool):
        return
    if not isinstance(value, int | float):
        raise Rejected(f"metadata {name!r} is {shown(value)}: it must be a string, a number, true or false")
    require_number(value, f"metadata {name!r}")


def require_modest(repeated: Iterable[Scalar], chunks: int) -> None:
    """Check how much the metadata adds that each chunk of a document repeats.

    Raises:
        Rejected: it is more than MOST_REPEATED characters.
    """
    size = sum(len(each) for each in repeated if isinstance(each, str))
    if size * chunks > MOST_REPEATED:
        raise Rejected(
            f"its title and metadata of {size:,} characters would be stored with each of its {chunks:,} chunks: shorten"
            " them, or leave a field out"
        )
