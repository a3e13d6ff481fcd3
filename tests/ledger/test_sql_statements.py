"""Statements of ledgers in SQLite: compiled once a process, and one for all rows of a large swap."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import sqlalchemy as sa

from flowbed.ledger import Cursor, Swap, open_ledger
from flowbed.ledger.sql.sqlite import CommonDialect
from flowbed.testing.ledger.rows import chunk, document

if TYPE_CHECKING:
    from pathlib import Path


async def test_ledger_opened_after_another_compiles_no_statement_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    compiler = CommonDialect.statement_compiler
    compiled: list[str] = []

    class Counting(compiler):  # type: ignore[misc, valid-type] # a variable
        def __init__(self, dialect: object, statement: object, *more: object, **options: object) -> None:
            compiled.append(str(statement))
            super().__init__(dialect, statement, *more, **options)

    monkeypatch.setattr(CommonDialect, "statement_compiler", Counting)
    for name in ("first", "second"):
        compiled.clear()
        ledger = await open_ledger(f"{name}.db", folder=tmp_path, new_id=name)
        assert ledger.id == name
        assert await ledger.chunks.counts() == {}
        await ledger.close()
    assert compiled == []


@pytest.mark.parametrize(("odd", "statements"), [("'\"\\\n 🙂 \u2028 $[0] ?", 1), ("a\0b", 100)])
async def test_large_swap_stores_every_text_unchanged(tmp_path: Path, odd: str, statements: int) -> None:
    """Its rows are one JSON text, which cannot hold a NUL: rows with one are inserted one by one."""
    executed: list[str] = []

    def count(_: object, __: object, statement: str, given: list[object], *more: object) -> None:
        if statement.startswith("INSERT INTO chunks"):
            executed.extend([statement] * (len(given) if more[-1] else 1))

    sa.event.listen(sa.Engine, "before_cursor_execute", count)
    ledger = await open_ledger("ledger.db", folder=tmp_path, new_id="l")
    try:
        rows = [
            chunk(f"s#{number}{odd}", document="d", deleted=True, ordinal=number, error=odd, version=2**62)
            for number in range(100)
        ]
        await ledger.documents.swap(
            Swap(cursor=Cursor(source="s"), value="", documents=[document()], chunks=rows)
        )
        assert sorted(await ledger.chunks.of("s", ["d"])) == sorted(rows)
        assert len(executed) == statements
    finally:
        sa.event.remove(sa.Engine, "before_cursor_execute", count)
        await ledger.close()
