"""What was published last, and when: one small object in the store for each publication and collection."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

import orjson

from flowbed.errors import NotFound
from flowbed.records import canonical
from flowbed.telemetry import PUBLICATION_RECORDED, reached

if TYPE_CHECKING:
    from flowbed.publish import Published
    from flowbed.storage import Store

FOLDER = "publication"


@dataclass(frozen=True, kw_only=True)
class Record:
    """The last publication of a collection: the version of the index, when (microseconds since 1970), and where.

    `manifest` is when the manifest of that version was written, as the store lists it; 0 if that is not known.
    """

    name: str
    collection: str
    version: int
    space: str
    place: str
    rows: int
    at: int
    manifest: int = 0


def record_key(collection: str, name: str) -> str:
    """Return the key of a publication's record."""
    return f"{collection}/{FOLDER}/{name}.json"


async def read_record(store: Store, collection: str, name: str) -> Record | None:
    """Read what a publication did last with a collection; None if nothing, or if the record is damaged."""
    try:
        return _parsed((await store.get(record_key(collection, name))).body)
    except NotFound:
        return None


async def write_record(store: Store, done: Published, *, space: str, now: int, manifest: int = 0) -> None:
    """Record a publication.

    The last to be recorded stays. If a slower process has recorded an older version, the next commit finds the
    publication due, and records the newer one again.
    """
    record = Record(
        name=done.publication,
        collection=done.collection,
        version=done.version,
        space=space,
        place=done.place,
        rows=done.rows,
        at=now,
        manifest=manifest,
    )
    await store.put(record_key(done.collection, done.publication), canonical(asdict(record)))
    reached(PUBLICATION_RECORDED, collection=done.collection, name=done.publication)


def _parsed(body: bytes) -> Record | None:
    try:
        return Record(**orjson.loads(body))
    except (ValueError, TypeError):
        return None
