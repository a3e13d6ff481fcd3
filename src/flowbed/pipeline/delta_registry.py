"""Which deltas of other producers are registered: their keys, run records, and state in the ledger."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import orjson

from flowbed.errors import Conflict, NotFound, Rejected
from flowbed.ledger import DocumentRow, Swap
from flowbed.records.names import is_name

if TYPE_CHECKING:
    from collections.abc import Sequence

    from flowbed.lanes.contexts import Context

# The ledger's source of registered deltas: a name with a dot, as no source of the settings has.
SOURCE = "deltas.registered"
# Etags of a registered delta. One that is committed is done once its files are deleted, where they are.
WAITING, COMMITTED, DONE = "waiting", "committed", "done"
ARCHIVE = "delta.tar.gz"
RECORD = ".json"  # how the key of a run record ends
_KEY = re.compile(
    rf"([a-z0-9][a-z0-9_-]{{0,62}})/delta/([A-Za-z0-9][A-Za-z0-9_.=-]{{0,127}})(?:/{re.escape(ARCHIVE)})?"
)
_PREFIX = "_delta_prefix"
MOST_RECORD = 2**20  # bytes of a run record
TRIES = 20


async def registered(context: Context, state: str = WAITING) -> list[str]:
    """Return the registered deltas of a state, by default those that are not committed yet, oldest first."""
    rows = [row async for page in context.ledger.documents.pages(SOURCE) for row in page]
    return [row.id for row in sorted(rows, key=lambda row: row.generation) if row.etag == state]


async def resolve(key: str, context: Context) -> list[str]:
    """Return the prefixes of the deltas that a key names.

    Raises:
        Rejected: it names none.
    """
    key = key.removeprefix(f"{context.store.url.rstrip('/')}/").rstrip("/")
    if not key.endswith(RECORD):
        return [_prefix(key)]
    try:
        body = (await context.store.get(key)).body
    except NotFound as error:
        raise Rejected(f"run record {key} is not in the store") from error
    return read_record(body, key)


def read_record(body: bytes, name: str) -> list[str]:
    """Return the prefixes of the deltas that a run record names.

    Raises:
        Rejected: it is not a run record, or names what is no delta.
    """
    try:
        said = orjson.loads(body) if len(body) <= MOST_RECORD else None
    except ValueError as error:
        raise Rejected(f"run record {name} is not JSON: {error}") from error
    fields = {} if not isinstance(said, dict) else said
    prefixes = {key: value for key, value in fields.items() if key.endswith(_PREFIX) and value}
    if not prefixes:
        raise Rejected(f"run record {name} names no delta: it needs a field such as lines{_PREFIX}")
    found = []
    for key, value in prefixes.items():
        if not isinstance(value, str):
            raise Rejected(f"run record {name}: {key} is not a text")
        prefix = _prefix(value.rstrip("/"))
        if collection_of(prefix) != key.removesuffix(_PREFIX):
            raise Rejected(f"run record {name}: {key} is {value[:200]!r}, which is of another collection")
        found.append(prefix)
    return found


def _prefix(key: str) -> str:
    if _KEY.fullmatch(key) is None or not is_name(collection_of(key)):
        raise Rejected(
            f"{key[:200]!r} is not the key of a delta: it has to be COLLECTION/delta/RUN or"
            f" COLLECTION/delta/RUN/{ARCHIVE}"
        )
    return key.removesuffix(f"/{ARCHIVE}")


def collection_of(prefix: str) -> str:
    """Return the collection of a delta."""
    return prefix.partition("/")[0]


async def mark(context: Context, names: Sequence[str], state: str) -> None:
    """Record the state of registered deltas."""
    if not names:
        return
    now = context.clock()
    rows = [
        DocumentRow(source=SOURCE, id=name, etag=state, hash="", chunks=0, generation=now + place)
        for place, name in enumerate(dict.fromkeys(names))
    ]
    for attempt in range(TRIES):
        cursor = await context.ledger.documents.cursor(SOURCE)
        try:
            await context.ledger.documents.swap(Swap(cursor=cursor, value="", documents=rows))
        except Conflict:
            if attempt == TRIES - 1:
                raise
        else:
            return
