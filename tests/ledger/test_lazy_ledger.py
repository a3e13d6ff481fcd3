"""A ledger that needs nothing done is known without SQLAlchemy; every other is opened as ever, and told of."""

from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from flowbed.errors import Misconfigured
from flowbed.ledger import BatchRow, Cursor, DeadLetter, DocumentRow, Ledger, Swap, open_ledger
from flowbed.ledger.sql.lazy_ledger import LazyLedger, find_ledger

if TYPE_CHECKING:
    from pathlib import Path


async def made(folder: Path) -> None:
    """Make a ledger."""
    await (await open_ledger("ledger.db", folder=folder, new_id="of this ledger")).close()


@pytest.mark.parametrize("address", ["ledger.db", "sqlite:///ledger.db"])
async def test_a_ledger_that_stands_is_the_one_that_opening_finds(tmp_path: Path, address: str) -> None:
    """It has the id and the name that the ledger has when it is opened, and what one writes the other reads."""
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


async def test_every_part_of_a_ledger_is_there(tmp_path: Path) -> None:
    """Whatever part is asked for first, it and all others can be used."""
    await made(tmp_path)
    parts = {name for name in Ledger.__annotations__ if name not in {"id", "location"}}
    assert parts == set(LazyLedger.__annotations__)
    for part in sorted(parts):
        found = find_ledger("ledger.db", folder=tmp_path)
        assert found is not None
        assert getattr(found, part) is getattr(found, part)
        assert await found.chunks.counts() == {}
        await found.close()


async def test_what_is_no_part_of_a_ledger_is_an_error(tmp_path: Path) -> None:
    """A misspelt part is told as such, before the database is open and after."""
    await made(tmp_path)
    found = find_ledger("ledger.db", folder=tmp_path)
    assert found is not None
    for _ in range(2):
        with pytest.raises(AttributeError, match="chunk"):
            found.chunk  # noqa: B018
        await found.chunks.counts()
    await found.close()


async def test_closing_what_was_not_opened_opens_nothing(tmp_path: Path) -> None:
    """A ledger of which nothing was asked leaves no files beside its own."""
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
async def test_a_ledger_with_something_to_do_is_left_to_opening(tmp_path: Path, statement: str) -> None:
    """An older or newer schema, and a ledger that lacks what makes it one, are not taken for one that stands."""
    await made(tmp_path)
    with sqlite3.connect(tmp_path / "ledger.db") as connection:
        connection.execute(statement)
    connection.close()
    assert find_ledger("ledger.db", folder=tmp_path) is None


@pytest.mark.parametrize("address", ["absent.db", ":memory:", "postgresql://localhost/x", "folder", "no.db"])
def test_what_is_no_ledger_is_left_to_opening(tmp_path: Path, address: str) -> None:
    """Of what is absent, elsewhere or something else nothing is said here, and nothing is made."""
    (tmp_path / "folder").mkdir()
    (tmp_path / "no.db").write_text("no database")
    before = sorted(tmp_path.iterdir())
    assert find_ledger(address, folder=tmp_path) is None
    assert sorted(tmp_path.iterdir()) == before


def test_searching_loads_no_sqlalchemy(tmp_path: Path) -> None:
    """A process that opens a project that was opened before, and searches it by a vector, does without SQLAlchemy."""
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


async def test_reads_of_a_run_without_changes_load_no_sqlalchemy(tmp_path: Path) -> None:
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


async def test_a_damaged_ledger_is_explained_by_the_whole_one(tmp_path: Path) -> None:
    """A read that SQLite refuses is done again by the whole ledger, which says what the error means."""
    await made(tmp_path)
    found = find_ledger("ledger.db", folder=tmp_path)
    assert found is not None
    tmp_path.joinpath("ledger.db").write_bytes(b"no database at all, and long enough to be read as one" * 100)
    with pytest.raises(Misconfigured, match="ledger"):
        await found.overview()
    await found.close()
