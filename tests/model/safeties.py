"""Each safety of an index, switched off."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pyarrow as pa
import sqlalchemy as sa

from flowbed.index import compaction, deltas, schema
from flowbed.ledger import Cursor
from flowbed.ledger.sql.schema import cursors
from flowbed.ledger.sql.tables.documents import SqlDocuments
from flowbed.ledger.sql.tables.runs import SqlRuns
from flowbed.pipeline import rollback
from flowbed.pipeline.comparing import stretches
from flowbed.records import Status, run_id

if TYPE_CHECKING:
    import pytest

    from flowbed.lanes.contexts import RunContext
    from flowbed.ledger import RunRow


def without_primary_key(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lance does not know the primary key."""
    another = {"lance-schema:another": "true"}
    # Deltas are made as ever: they have imported the function before.
    real = schema.schema
    monkeypatch.setattr(schema, "PRIMARY_KEY", another)
    monkeypatch.setattr(
        schema,
        "schema",
        lambda dimensions: real(dimensions).set(
            0, pa.field("id", pa.string(), nullable=False, metadata=another)
        ),
    )


def without_conditional_versions(monkeypatch: pytest.MonkeyPatch) -> None:
    """A fetch moves the cursor even if another fetch has moved it."""
    step = SqlDocuments._advance

    def advance(self: SqlDocuments, connection: sa.Connection, seen: Cursor, value: str) -> Cursor:
        stands = sa.select(cursors.c.token).where(cursors.c.source == seen.source)
        token = connection.execute(stands).scalar() or 0
        return step(self, connection, Cursor(source=seen.source, token=token), value)

    monkeypatch.setattr(SqlDocuments, "_advance", advance)


def without_tombstone_retention(monkeypatch: pytest.MonkeyPatch) -> None:
    """Compaction drops every tombstone."""
    plan = compaction.plan_compaction
    monkeypatch.setattr(
        compaction,
        "plan_compaction",
        lambda *args, **kwargs: replace(plan(*args, **kwargs), drop_before=2**62),
    )


def without_runs_named_by_content(monkeypatch: pytest.MonkeyPatch) -> None:
    """A run id depends on the row ids only, and not on versions and texts."""
    monkeypatch.setattr(
        deltas,
        "run_id",
        lambda collection, space, rows: run_id(collection, space, [(row[0], 0, False, "") for row in rows]),
    )


def without_ignoring_reverted_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    """A commit takes reverted runs too."""
    pending = SqlRuns.pending
    taken: set[tuple[int, str]] = set()  # a stale one would be taken forever

    async def also_reverted(self: SqlRuns, collection: str, *, limit: int) -> list[RunRow]:
        found = await pending(self, collection, limit=limit)
        for each in await self.reverted(collection):
            run = await self.get(each)
            if run is not None and (id(self), each) not in taken:
                taken.add((id(self), each))
                found.append(run)
        return found

    monkeypatch.setattr(SqlRuns, "pending", also_reverted)


def without_undoing_whole_documents(monkeypatch: pytest.MonkeyPatch) -> None:
    """An edit leaves chunks of its document as a rollback put them."""
    monkeypatch.setattr(stretches, "UNSETTLED", frozenset({Status.FAILED}))


def without_restarting_fetches(monkeypatch: pytest.MonkeyPatch) -> None:
    """A fetch goes on although a rollback has reverted what it was compared with."""

    async def silent(context: RunContext, collection: str) -> None:
        """Restart no fetch."""

    monkeypatch.setattr(rollback, "_restart_fetches", silent)
