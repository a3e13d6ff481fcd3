"""A delta that differs from its run's record is refused and reported, and written again without paying."""

from __future__ import annotations

import hashlib
import sqlite3
from collections.abc import Callable
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from flowbed import telemetry
from flowbed.errors import Transient
from flowbed.index.deltas import Upsert, encode, table
from flowbed.records import Space
from flowbed.testing.embedder import seeded

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.support.projects import Project

Harm = Callable[[Path, Path], None]

OTHER = Space(model="seeded:16", dimensions=16)


def damaged(path: Path, ledger: Path) -> None:
    """Change a byte, so that the file is not the one recorded."""
    body = bytearray(path.read_bytes())
    body[len(body) // 2] ^= 1
    path.write_bytes(body)


def missing(path: Path, ledger: Path) -> None:
    """Remove the file."""
    path.unlink()


def truncated(path: Path, ledger: Path) -> None:
    """Cut the end off, and record the sum of what is left, as a broken producer would."""
    replaced(path, ledger, path.read_bytes()[:-200])


def of_another_space(path: Path, ledger: Path) -> None:
    """Put a good delta of another model in its place."""
    run = path.parent.name
    row = Upsert(
        id="x", version=1, document="x", metadata={}, text_hash="0" * 64, vector=seeded(["x"], 16)[0]
    )
    replaced(path, ledger, encode(table(run, OTHER, [row], []), run, OTHER, now=1))


def run_of_another_space(path: Path, ledger: Path) -> None:
    """Record the run as one of another model, its delta as well."""
    of_another_space(path, ledger)
    with closing(sqlite3.connect(ledger)) as database, database:
        database.execute(
            "UPDATE runs SET space = ?, rows = 1 WHERE id = ?", (OTHER.to_json(), path.parent.name)
        )


def replaced(path: Path, ledger: Path, body: bytes) -> None:
    """Write another body, with its sum in the ledger."""
    path.write_bytes(body)
    with closing(sqlite3.connect(ledger)) as database, database:
        database.execute(
            "UPDATE runs SET sha256 = ? WHERE id = ?", (hashlib.sha256(body).hexdigest(), path.parent.name)
        )


HARMS = {
    damaged: "sha256",
    missing: "is missing",
    truncated: "truncated",
    of_another_space: "of space",
    run_of_another_space: "of space",
}


@pytest.mark.parametrize(("how", "reason"), HARMS.items(), ids=[each.__name__ for each in HARMS])
@pytest.mark.parametrize("named", [True, False], ids=["named", "all"])
async def test_commit_bad_delta_is_refused_and_written_again_for_free(
    how: Harm, reason: str, named: bool, receipts: Project
) -> None:
    """A bad delta fails with its reason, and the others are committed; a retry commits its rows at no cost."""
    async with await receipts.open() as bed:
        with harmed(how, receipts, "lines"):
            report = await bed.run()
        assert report.failed == 1
        assert reason in report.failures[0].reason
        (letter,) = await bed.dead_letters()
        assert (letter.kind, letter.owner) == ("run", "lines")
        assert reason in letter.reason
        assert receipts.documents("lines") == {}
        assert len(receipts.documents("words")) == 7  # the other collection's delta was good
        status = await bed.status()
        assert (status.chunks, status.pending) == ({"SUCCESS": 7, "FAILED": 3}, ())
        assert (await bed.run()).chunks == 0  # and is not tried again without a command
        receipts.sent()
        assert await bed.retry_dead_letters(*[letter.subject] if named else []) == 3
        assert await bed.dead_letters() == []
        report = await bed.run()
        assert (report.chunks, report.embedded, report.failed) == (3, 0, 0)
        assert (await bed.status()).chunks == {"SUCCESS": 10}
    assert not receipts.sent()
    assert sorted(receipts.documents("lines").values()) == ["CASH 10.00", "GRAND TOTAL 7.80", "TOTAL 7.80"]


async def test_commit_bad_delta_leaves_others_of_its_collection_committed(notes: Project) -> None:
    """Of two pending deltas the good one is committed though the other is refused."""
    notes.write("notes/five.txt", "a fifth note")
    async with await notes.open() as bed:
        with interrupted_before_commit(), pytest.raises(Transient):
            await bed.run()
        assert (await bed.status()).pending == ("notes",)
        (pending,) = unmerged(notes, "notes")
        missing(pending, notes.folder)
        notes.write("notes/six.txt", "a sixth note")
        report = await bed.run()
        assert (report.chunks, report.failed) == (1, 1)
        assert "is missing" in report.failures[0].reason
        assert len(notes.documents("notes")) == 5
        assert await bed.retry_dead_letters() == 1
        notes.sent()
        assert (await bed.run()).failed == 0
    assert not notes.sent()
    assert len(notes.documents("notes")) == 6


async def test_run_delta_left_by_a_stopped_run_is_committed(notes: Project) -> None:
    """A run that stopped before its commit left a delta behind, which the next run commits without embedding."""
    notes.write("notes/five.txt", "a fifth note")
    (notes.folder / "notes" / "one.txt").unlink()
    async with await notes.open() as bed:
        with interrupted_before_commit(), pytest.raises(Transient):
            await bed.run()
        notes.sent()
        assert len(notes.documents("notes")) == 4
        report = await bed.run()
        assert (report.fetched, report.embedded, report.failed) == (0, 0, 0)
        assert (await bed.status()).pending == ()
    assert not notes.sent()
    assert "notes#one.txt#00000" not in notes.documents("notes")
    assert "notes#five.txt#00000" in notes.documents("notes")


@contextmanager
def harmed(how: Harm, project: Project, collection: str) -> Iterator[None]:
    """Harm the next delta of a collection between its writing and its commit."""

    def strike(point: str, facts: dict[str, Any]) -> None:
        if point == telemetry.RUN_RECORDED:
            for path in unmerged(project, collection, run=facts["run"]):
                how(path, project.folder / ".flowbed" / "ledger.db")

    stop = telemetry.listen(strike)
    try:
        yield
    finally:
        stop()


@contextmanager
def interrupted_before_commit() -> Iterator[None]:
    """Stop a run once its delta is recorded."""

    def strike(point: str, facts: dict[str, Any]) -> None:
        if point == telemetry.RUN_RECORDED:
            raise Transient("stopped here")

    stop = telemetry.listen(strike)
    try:
        yield
    finally:
        stop()


def unmerged(project: Project, collection: str, *, run: str = "") -> list[Path]:
    """Find the delta of a run, or of the one run that is pending."""
    with closing(sqlite3.connect(project.folder / ".flowbed" / "ledger.db")) as database:
        found = [key for (key,) in database.execute("SELECT id FROM runs WHERE state = 'pending'")]
    folder = project.folder / ".flowbed" / "store" / collection / "delta"
    paths = [folder / key / "delta.arrow" for key in found if not run or key == run]
    return [path for path in paths if path.exists()]
