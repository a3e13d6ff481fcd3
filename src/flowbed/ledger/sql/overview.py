"""The reads of a run without changes, in SQL that SQLite and Postgres share.

They are plain text, so that a SQLite ledger can answer them without SQLAlchemy: see `lazy_ledger`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

from flowbed.errors import Damaged
from flowbed.ledger.rows import Cursor, Overview, Progress, SubmissionRow
from flowbed.records import Status

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence

SEEN = "seen/"  # prefix of the facts up to which version each collection's history is known

# Conditions repeat those of the partial indexes literally; otherwise SQLite would read every chunk.
_WORKERS = "SELECT DISTINCT worker FROM chunks WHERE status = 'PENDING' AND run = '' AND worker > ''"
_PENDING = "SELECT DISTINCT collection FROM runs WHERE state = 'pending' ORDER BY collection"
_SEEN = f"SELECT name, value FROM facts WHERE substr(name, 1, {len(SEEN)}) = '{SEEN}'"  # noqa: S608 - a constant
_FIELDS = tuple(SubmissionRow.__dataclass_fields__)
_SUBMISSIONS = f"SELECT {', '.join(_FIELDS)} FROM submissions WHERE ended = 0 ORDER BY created, id"  # noqa: S608
_UNFINISHED = (
    "SELECT collection, status, count(*) FROM chunks WHERE status != 'SUCCESS' GROUP BY collection, status"
)
_TROUBLED = "SELECT DISTINCT owner FROM dead_letters WHERE kind = 'source'"
_CURSOR = "SELECT source, value, token FROM cursors WHERE source = :source"
_DOCUMENTS = "SELECT count(*) FROM documents WHERE source = :source"


class Query(Protocol):
    """Executes a statement within a transaction, and returns its rows."""

    def __call__(self, statement: str, parameters: Mapping[str, Any] = ..., /) -> Sequence[Any]:
        """Return the rows."""
        ...


def read_overview(query: Query) -> Overview:
    """Read the state of a ledger.

    Raises:
        Damaged: a value is not one that Flowbed writes.
    """
    try:
        return _overview(query)
    except ValueError as error:
        raise Damaged(
            f"the ledger holds a value that Flowbed does not write ({error}); `flowbed verify --repair` repairs it"
        ) from error


def _overview(query: Query) -> Overview:
    live = [dict(zip(_FIELDS, row, strict=True)) for row in query(_SUBMISSIONS)]
    return Overview(
        workers=frozenset(worker for (worker,) in query(_WORKERS)),
        pending=tuple(collection for (collection,) in query(_PENDING)),
        seen={name.removeprefix(SEEN): int(value) for name, value in query(_SEEN)},
        # SQLite has no booleans.
        submissions=tuple(SubmissionRow(**{**row, "cancel": bool(row["cancel"])}) for row in live),
        unfinished={(name, Status(status)): number for name, status, number in query(_UNFINISHED)},
        troubled=frozenset(owner for (owner,) in query(_TROUBLED)),
    )


def read_progress(query: Query, sources: Collection[str]) -> dict[str, Progress]:
    """Read how far each source was fetched."""
    found = {}
    for source in sources:
        named = {"source": source}
        cursors = [
            Cursor(source=name, value=value, token=token) for name, value, token in query(_CURSOR, named)
        ]
        ((documents,),) = query(_DOCUMENTS, named)
        found[source] = Progress(cursor=cursors[0] if cursors else Cursor(source=source), documents=documents)
    return found
