"""A ledger with a current schema is found without SQLAlchemy; everything else is left to `open_ledger`."""

from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest
from tests.ledger.test_sql_opening import files_up_to

from flowbed.errors import Misconfigured, OutOfSpace
from flowbed.ledger import BatchRow, Cursor, DeadLetter, DocumentRow, Ledger, Swap, open_ledger
from flowbed.ledger.index_jobs import HoldsIndexJobs
from flowbed.ledger.sql import lazy_ledger
from flowbed.ledger.sql.lazy_ledger import LazyLedger, find_ledger
from flowbed.ledger.workers import HoldsWorkers

if TYPE_CHECKING:
    from pathlib import Path

# What a ledger need not keep.
OPTIONAL = (HoldsIndexJobs, HoldsWorkers)


async def made(folder: Path) -> None:
    """Create a ledger."""
    await (await open_ledger("ledger.db", folder=folder, new_id="of this ledger")).close()


@pytest.mark.parametrize("address", ["ledger.db", "sqlite:///ledger.db"])
async def test_find_ledger_is_the_ledger_that_opening_finds(tmp_path: Path, address: str) -> None:
    """It has the id and location of the opened ledger, and reads what that one writes."""
    await made(tmp_path)
    found = find_ledger(address, folder=tmp_path)
    assert found is not None
    opened = await open_ledger(address, folder=tmp_path, new_id="another")
    assert (found.id, found.location) == (opened.id, opened.location)
    batch = BatchRow(id="b", source="s", key="s/chunked/b.json", timestamp=17, chunks=1)
    await opened.batches.register(batch)
    assert await found.batches.get(["b"]) == {"b": batch}
    await found.close()
    await opened.close()


async def test_lazy_ledger_opens_for_any_aggregate(tmp_path: Path) -> None:
    """Whichever aggregate is used first, all of them work."""
    await made(tmp_path)
    parts = {name for name in Ledger.__annotations__ if name not in {"id", "location"}}
    parts |= {name for each in OPTIONAL for name in each.__annotations__}
    assert parts == set(LazyLedger.__annotations__)
    for part in sorted(parts):
        found = find_ledger("ledger.db", folder=tmp_path)
        assert found is not None
        assert getattr(found, part) is getattr(found, part)
        assert await found.chunks.counts() == {}
        await found.close()


async def test_lazy_ledger_unknown_attribute_is_an_error(tmp_path: Path) -> None:
    """A misspelt attribute raises AttributeError, before and after the database is opened."""
    await made(tmp_path)
    found = find_ledger("ledger.db", folder=tmp_path)
    assert found is not None
    for _ in range(2):
        with pytest.raises(AttributeError, match="chunk"):
            found.chunk  # noqa: B018
        await found.chunks.counts()
    await found.close()


async def test_close_unused_lazy_ledger_opens_nothing(tmp_path: Path) -> None:
    """Closing an unused ledger creates no files."""
    await made(tmp_path)
    found = find_ledger("ledger.db", folder=tmp_path)
    assert found is not None
    await found.close()
    assert os.listdir(tmp_path) == ["ledger.db"]  # noqa: PTH208


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE ledger_version SET version_num = '0000'",
        "UPDATE ledger_version SET version_num = '9999'",
        "DELETE FROM ledger_version",
        "DELETE FROM facts",
        "DROP TABLE facts",
    ],
)
async def test_find_ledger_other_schema_is_none(tmp_path: Path, statement: str) -> None:
    """Another schema, or a ledger that is incomplete, is left to `open_ledger`."""
    await made(tmp_path)
    with sqlite3.connect(tmp_path / "ledger.db") as connection:
        connection.execute(statement)
    connection.close()
    assert find_ledger("ledger.db", folder=tmp_path) is None


@pytest.mark.parametrize("address", ["absent.db", ":memory:", "postgresql://localhost/x", "folder", "no.db"])
def test_find_ledger_without_a_ledger_is_none(tmp_path: Path, address: str) -> None:
    """A missing, remote or foreign database is left to `open_ledger`, and nothing is created."""
    (tmp_path / "folder").mkdir()
    (tmp_path / "no.db").write_text("no database")
    before = sorted(tmp_path.iterdir())
    assert find_ledger(address, folder=tmp_path) is None
    assert sorted(tmp_path.iterdir()) == before


def test_search_loads_no_sqlalchemy(tmp_path: Path) -> None:
    """Opening an existing project and searching it by a vector does not load SQLAlchemy."""
    (tmp_path / "flowbed.toml").write_text(
        'model = "seeded:8"\n[sources.notes]\nkind = "files"\nlocation = "notes"\n'
    )
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "one.md").write_text("one note")
    run = "import flowbed\nwith flowbed.open('.') as bed:\n    bed.run()"
    search = (
        "import sys, flowbed\nwith flowbed.open('.') as bed:\n    print(len(bed.search([1.0] * 8)))\n"
        "print('sqlalchemy' in sys.modules)"
    )
    told = [
        subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True)
        for code in (run, search)
    ]
    assert told[1].stdout.split() == ["1", "False"]


async def test_reads_of_unchanged_run_load_no_sqlalchemy(tmp_path: Path) -> None:
    """The overview, the progress and the etags are the whole ledger's, before it is opened and after."""
    await made(tmp_path)
    opened = await open_ledger("ledger.db", folder=tmp_path, new_id="another")
    rows = [
        DocumentRow(source="s", id=name, etag=f"e{name}", hash="", chunks=0, generation=1) for name in "ab"
    ]
    await opened.documents.swap(Swap(cursor=Cursor(source="s"), value="v", documents=rows))
    await opened.dead_letters.add([DeadLetter(kind="source", owner="s", subject="a", reason="lost", at=1)])
    found = find_ledger("ledger.db", folder=tmp_path)
    assert found is not None
    for _ in range(2):
        assert await found.overview() == await opened.overview()
        assert await found.documents.progress(["s", "t"]) == await opened.documents.progress(["s", "t"])
        assert await found.documents.etags("s", ["a", "c", "\0"]) == {"a": "ea"}
        assert await found.chunks.counts() == {}  # opens it
    await found.close()
    await opened.close()


async def test_lazy_ledger_damaged_file_is_explained(tmp_path: Path) -> None:
    """A read that SQLite refuses is done again by the whole ledger, which says what the error means."""
    await made(tmp_path)
    found = find_ledger("ledger.db", folder=tmp_path)
    assert found is not None
    tmp_path.joinpath("ledger.db").write_bytes(b"no database at all, and long enough to be read as one" * 100)
    with pytest.raises(Misconfigured, match="ledger"):
        await found.overview()
    await found.close()


async def test_find_ledger_on_a_full_disk_can_be_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without room for its log, SQLite would open nothing; a write then says that the disk is full."""
    await made(tmp_path)
    monkeypatch.setattr("flowbed.ledger.sql.sqlite._is_full", lambda _: True)
    with files_up_to(1_000):
        for _ in range(2):  # the first attempt leaves an empty file of the log behind
            found = find_ledger("ledger.db", folder=tmp_path)
            assert found is not None
            assert await found.chunks.counts() == {}
            with pytest.raises(OutOfSpace, match="free disk space"):
                await found.documents.swap(Swap(cursor=Cursor(source="s"), value="v1"))
            await found.close()
    found = find_ledger("ledger.db", folder=tmp_path)
    assert found is not None
    await found.documents.swap(Swap(cursor=Cursor(source="s"), value="v1"))
    await found.close()


async def test_find_ledger_in_use_is_never_read_without_its_log(tmp_path: Path) -> None:
    """Others may be writing to it."""
    await made(tmp_path)
    writer = await open_ledger("ledger.db", folder=tmp_path, new_id="i")
    await writer.documents.swap(Swap(cursor=Cursor(source="s"), value="v1"))
    assert lazy_ledger.accesses(tmp_path / "ledger.db") == (lazy_ledger.WRITABLE,)
    await writer.close()


async def test_find_ledger_index_of_the_log_removed_meanwhile_is_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its last user removes the index between two looks at it."""
    await made(tmp_path)
    monkeypatch.setattr(type(tmp_path), "exists", lambda _: True)
    found = find_ledger("ledger.db", folder=tmp_path)
    assert found is not None
    assert await found.chunks.counts() == {}
    await found.close()
