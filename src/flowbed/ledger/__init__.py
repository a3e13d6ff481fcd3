"""The ledger: the state of every chunk, batch file, run, submission and cent."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from flowbed.errors import Misconfigured

if TYPE_CHECKING:
    from pathlib import Path

    from flowbed.ledger.protocols.chunks import Chunks
    from flowbed.ledger.protocols.documents import Batches, Documents, Erasing
    from flowbed.ledger.protocols.ledger import Ledger
    from flowbed.ledger.protocols.runs import DeadLetters, Rollbacks, Runs
    from flowbed.ledger.protocols.service import Files, Jobs, Keys, Quotas
    from flowbed.ledger.protocols.submissions import Spending, Submissions
    from flowbed.ledger.rows import (
        BatchEvent,
        BatchRow,
        ChunkMark,
        ChunkRow,
        Cursor,
        DeadLetter,
        DocumentRow,
        Erasure,
        Failure,
        FileRow,
        InFlight,
        JobRow,
        KeyRow,
        Overview,
        Progress,
        Rollback,
        RunRow,
        SpendRow,
        Spent,
        SubmissionRow,
        Swap,
        Taken,
    )

__all__ = [
    "BatchEvent",
    "BatchRow",
    "Batches",
    "ChunkMark",
    "ChunkRow",
    "Chunks",
    "Cursor",
    "DeadLetter",
    "DeadLetters",
    "DocumentRow",
    "Documents",
    "Erasing",
    "Erasure",
    "Failure",
    "FileRow",
    "Files",
    "InFlight",
    "JobRow",
    "Jobs",
    "KeyRow",
    "Keys",
    "Ledger",
    "Overview",
    "Progress",
    "Quotas",
    "Rollback",
    "Rollbacks",
    "RunRow",
    "Runs",
    "SpendRow",
    "Spending",
    "Spent",
    "SubmissionRow",
    "Submissions",
    "Swap",
    "Taken",
    "open_ledger",
]

# The modules of `protocols` that have them; all other names are rows.
_PROTOCOLS = {
    "Batches": "documents",
    "Chunks": "chunks",
    "DeadLetters": "runs",
    "Documents": "documents",
    "Erasing": "documents",
    "Files": "service",
    "Jobs": "service",
    "Keys": "service",
    "Ledger": "ledger",
    "Quotas": "service",
    "Rollbacks": "runs",
    "Runs": "runs",
    "Spending": "submissions",
    "Submissions": "submissions",
}
SCHEMES = ("sqlite", "postgresql", "postgres", "dynamodb")


async def open_ledger(url: str, *, folder: Path, new_id: str, connections: int = 5) -> Ledger:
    """Open the ledger at `url`, creating (with `new_id`) or upgrading it if needed.

    A plain path is a SQLite file, below `folder` if relative. On Postgres it has up to so many `connections`.

    Raises:
        Misconfigured: the URL is of no kind of ledger, or a newer Flowbed made the ledger.
        Transient: the server cannot be reached.
    """
    scheme = url.partition("://")[0] if "://" in url else "sqlite"
    start = url.partition(":")[0]
    if start != url and start in SCHEMES and "://" not in url:
        raise Misconfigured(f"the address of the ledger lacks the slashes after {start}: write {start}://...")
    if scheme not in SCHEMES:
        raise Misconfigured(
            f"a ledger cannot be kept in {scheme!r}, only in SQLite, Postgres or DynamoDB: set `ledger` to a path"
            " such as .flowbed/ledger.db, to postgresql://user@host/database, or to dynamodb://table?region=eu-west-1"
        )
    if scheme == "dynamodb":
        from flowbed.ledger.dynamodb import open_dynamodb

        return await open_dynamodb(url, new_id=new_id)
    from flowbed.ledger.sql import ledger as sql  # loads SQLAlchemy

    if scheme != "sqlite":
        return await sql.open_postgres(url, new_id=new_id, connections=connections)
    return await sql.open_sqlite(url.removeprefix("sqlite:///"), folder=folder, new_id=new_id)


def __getattr__(name: str) -> object:
    """Resolve names on first use: a search needs few of them, and creating each class takes a millisecond."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module = f"protocols.{_PROTOCOLS[name]}" if name in _PROTOCOLS else "rows"
    return getattr(import_module(f"{__name__}.{module}"), name)
