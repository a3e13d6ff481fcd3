"""A delta that is not what its run promised: refused, told, and brought in again without paying."""

from __future__ import annotations

import hashlib
import sqlite3
from contextlib import closing
from typing import TYPE_CHECKING, Any

import pytest

from flowbed import telemetry
from flowbed.index.deltas import Upsert, encode, table
from flowbed.records import Space
from flowbed.testing.embedder import seeded

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from tests.pipeline.conftest import Project

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


@pytest.fixture
def harm() -> Iterator[Callable[[Callable[[Path, Path], None], Project, str], None]]:
    """Give a call that has the next delta of a collection harmed between its writing and its commit."""
    stops = []

    def arm(how: Callable[[Path, Path], None], project: Project, collection: str) -> None:
        def struck(point: str, facts: dict[str, Any]) -> None:
            hidden = project.folder / ".flowbed"
            found = list((hidden / "store" / collection / "delta").glob(f"{facts.get('run')}/delta.arrow"))
            if point == telemetry.RUN_RECORDED and found:
                how(found[0], hidden / "ledger.db")

        stops.append(telemetry.listen(struck))

    yield arm
    for stop in stops:
        stop()


@pytest.mark.parametrize(("how", "reason"), HARMS.items(), ids=[each.__name__ for each in HARMS])
@pytest.mark.parametrize("named", [True, False], ids=["named", "all"])
async def test_a_bad_delta_is_refused_and_retried_without_paying(
    how: Callable[[Path, Path], None],
    reason: str,
    named: bool,
    receipts: Project,
    harm: Callable[[Callable[[Path, Path], None], Project, str], None],
) -> None:
    """A bad delta is a failure with its reason, the others commit; told to retry, its rows come in at no cost."""
    async with await receipts.open() as bed:
        stopping = telemetry.listen(lambda point, facts: None)
        harm(how, receipts, "lines")
        report = await bed.run()
        stopping()
        assert report.failed == 1
        assert reason in report.failures[0].reason
        (letter,) = await bed.dead_letters()
        assert (letter.kind, letter.owner) == ("run", "lines")
        assert reason in letter.reason
        assert receipts.documents("lines") == {}
        assert len(receipts.documents("words")) == 7  # the other collection's delta was good
        status = await bed.status()
        assert (status.chunks, status.pending) == ({"SUCCESS": 7, "FAILED": 3}, ())
        assert (await bed.run()).chunks == 0
        receipts.sent()
