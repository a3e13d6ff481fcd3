"""How many steps a run takes: ledger transactions, looks at the collections' pointers, and opened indexes."""

from __future__ import annotations

import os
from collections import Counter
from typing import TYPE_CHECKING, Any

import pytest

import flowbed
from flowbed.index.active_space import ACTIVE
from flowbed.index.datasets import Datasets
from flowbed.ledger.sql.database import Database
from flowbed.ledger.sql.lazy_ledger import LazyLedger

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

SOURCES = ("one", "two", "three")


def indexed(tmp_path: Path, sources: tuple[str, ...]) -> Path:
    """Make a project of these sources, each with three pages, and run it once."""
    settings = "".join(f'[sources.{name}]\nkind = "files"\nlocation = "{name}"\n' for name in sources)
    tmp_path.joinpath("flowbed.toml").write_text(f'model = "seeded:16"\n{settings}')
    for name in sources:
        tmp_path.joinpath(name).mkdir()
        for number in range(3):
            page = tmp_path.joinpath(name, f"{number}.txt")
            page.write_text(f"Page {number} of {name}.")
            os.utime(page, (1e9, 1e9))  # a file that has just changed is read again by the next run
    with flowbed.open(tmp_path) as bed:
        assert bed.run().chunks == 3 * len(sources)
    return tmp_path


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A project with three sources that was run once."""
    return indexed(tmp_path, SOURCES)


@pytest.fixture
def steps(monkeypatch: pytest.MonkeyPatch) -> Iterator[Counter[str]]:
    """Count what is done from here on.

    A transaction is one begin and commit on the ledger's database: of the whole ledger, which tries some again, or of
    one that only reads.
    """
    counted: Counter[str] = Counter()

    def count(owner: type, name: str, kind: str) -> None:
        real = getattr(owner, name)

        def counting(*given: Any, **named: Any) -> Any:
            counted[kind] += 1
            return real(*given, **named)

        monkeypatch.setattr(owner, name, counting)

    count(Database, "_attempt", "transactions")
    count(LazyLedger, "_transact", "transactions")
    count(Datasets, "_found", "opened")
    yield counted
    monkeypatch.undo()


async def run(folder: Path, steps: Counter[str]) -> flowbed.Report:
    """Open a project as a new process would, and run it; only the run is counted."""
    async with await flowbed.aopen(folder) as bed:
        store = bed.store
        real = store.get

        async def get(key: str) -> Any:
            if key.endswith(f"/{ACTIVE}"):
                steps[key] += 1
            return await real(key)

        store.get = get  # type: ignore[method-assign]
        steps.clear()
        report = await bed.run()
    assert not report.failures
    return report


async def test_run_nothing_changed_takes_eight_transactions_and_opens_no_index(
    project: Path, steps: Counter[str]
) -> None:
    """Each collection's pointer is read once."""
    report = await run(project, steps)
    assert report.fetched == report.chunks == 0
    assert report.versions == {"one": 2, "two": 2, "three": 2}
    assert steps["transactions"] <= 8
    assert steps["opened"] == 0
    assert [steps[f"{name}/{ACTIVE}"] for name in SOURCES] == [1, 1, 1]


async def test_run_one_chunk_changed_takes_sixteen_transactions(tmp_path: Path, steps: Counter[str]) -> None:
    indexed(tmp_path, ("two",)).joinpath("two", "1.txt").write_text("Another page.")
    report = await run(tmp_path, steps)
    assert (report.chunks, report.versions) == (1, {"two": 3})
    assert steps["transactions"] <= 16
    assert steps[f"two/{ACTIVE}"] == 1


async def test_run_each_further_source_adds_one_transaction(project: Path, steps: Counter[str]) -> None:
    """Only the collection that is written to is opened."""
    fewest = 1_000
    for version in (3, 4, 5):  # on a machine that stalls, a run renews what it holds
        project.joinpath("two", "1.txt").write_text(f"Another page {version}.")
        report = await run(project, steps)
        assert report.chunks == 1
        assert report.versions == {"one": 2, "two": version, "three": 2}
        assert [steps[f"{name}/{ACTIVE}"] for name in SOURCES] == [1, 1, 1]
        fewest = min(fewest, steps["transactions"])
    assert fewest <= 16 + len(SOURCES) - 1  # each further source is compared in one


async def test_run_after_a_change_looks_for_no_rollback(project: Path, steps: Counter[str]) -> None:
    """A commit that nobody came between says so, so that the next run does not read the history."""
    project.joinpath("two", "1.txt").write_text("Another page.")
    await run(project, steps)
    await run(project, steps)
    assert steps["opened"] == 0
