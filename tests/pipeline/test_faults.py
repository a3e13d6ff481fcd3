"""A store that fails at every call of a run in turn: running again without faults ends in the same index."""

from __future__ import annotations

import shutil
from contextlib import suppress
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from flowbed.bed import Flowbed
from flowbed.errors import Error, Transient
from flowbed.ledger import open_ledger
from flowbed.settings import read_settings
from flowbed.storage import open_store
from flowbed.testing.faults import Fault, FaultyStore, unavailable
from flowbed.testing.index import assert_same, contents_of
from flowbed.wiring.opening import HIDDEN

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from tests.support.projects import Project


READS = frozenset({"get", "stream", "list", "folders"})


@pytest.mark.parametrize(
    "every_call", [False, pytest.param(True, marks=pytest.mark.long)], ids=["some", "every"]
)
@pytest.mark.parametrize("edited", [False, True], ids=["new", "edited"])
@pytest.mark.parametrize("moment", ["before", "after"])
async def test_run_store_fails_once_anywhere_next_run_ends_in_the_same_index(
    moment: str, edited: bool, every_call: bool, receipts: Project, tmp_path: Path
) -> None:
    """Whichever call of a run the store fails, before or after its effect, the next run ends in the same index."""
    if edited:
        async with await receipts.open() as bed:
            await bed.run()
        edit(receipts)
    calls, reason = await faulty_run(receipts, tmp_path / "whole", [])
    assert reason == ""
    expected = contents_of(tmp_path / "whole")
    assert expected.total == (7 if edited else 10)
    assert len(calls) > 15
    tried = list(range(len(calls)))
    if not every_call:
        # A read has no effect, so that it need not fail after it; of repeated reads the first stands for all. A
        # first run and a later one make most calls alike: before its effect every second call fails in each.
        tried = [
            number
            for number, call in enumerate(calls)
            if call[0] not in READS or (moment == "before" and call not in calls[:number])
        ]
        tried = tried[edited::2] if moment == "before" else tried
    failed = 0
    for number in tried:
        folder = tmp_path / f"fault-{number}"
        fault = (
            Fault(calls=[number + 1], before=unavailable)
            if moment == "before"
            else Fault(calls=[number + 1], after=unavailable)
        )
        _, reason = await faulty_run(receipts, folder, [fault])
        failed += bool(reason)
        _, reason = await faulty_run(receipts, folder, [])
        assert reason == "", f"call {number}, {calls[number]}: {reason}"
        assert_same(contents_of(folder), expected)
        shutil.rmtree(folder)
    # A failed lease, and a lost answer to a write, do not stop a run.
    assert failed >= max(3, len(tried) // 2)


@pytest.mark.parametrize("seeds", [1, pytest.param(20, marks=pytest.mark.long)])
async def test_run_store_fails_often_ends_in_the_same_index(
    seeds: int, receipts: Project, tmp_path: Path
) -> None:
    """Runs on a store that fails one call in twelve by chance end, after enough of them, in the same index."""
    await faulty_run(receipts, tmp_path / "whole", [])
    for seed in range(seeds):
        folder = tmp_path / f"seed-{seed}"
        for turn in range(60):
            faults = [Fault(probability=0.08, before=unavailable), Fault(probability=0.04, after=unavailable)]
            _, reason = await faulty_run(receipts, folder, faults, seed=1_000 * seed + turn)
            if not reason:
                break
        assert reason == "", f"seed {seed}"
        assert_same(contents_of(folder), contents_of(tmp_path / "whole"))


async def faulty_run(
    project: Project, folder: Path, faults: Sequence[Fault], *, seed: int = 0
) -> tuple[list[tuple[str, str]], str]:
    """Run a copy of the project in `folder` on a faulty store; return its calls, and its failure if it failed."""
    begin(project, folder)
    config = read_settings(folder)
    # Texts go to no counting process: only the store matters here.
    config = replace(config, model_options={})
    store = FaultyStore(open_store(config.store, folder=folder), faults, seed=seed)
    ledger = await open_ledger(config.ledger, folder=folder, new_id="ledger")
    reason = ""
    async with Flowbed(folder, config, store, ledger) as bed:
        try:
            report = await bed.run()
            reason = "; ".join(problem.reason for problem in report.failures)
        except Error as error:
            reason = str(error) or type(error).__name__
        with suppress(Error):
            assert "PENDING" not in (await bed.status()).chunks or (await bed.status()).pending
    return store.calls, reason


def begin(project: Project, folder: Path) -> None:
    """Copy the project to `folder`, unless that was done before."""
    if not folder.exists():
        shutil.copytree(project.folder, folder)
    (folder / HIDDEN).mkdir(exist_ok=True)


def edit(project: Project) -> None:
    """Change a line of one receipt, and remove the other."""
    lines = (project.folder / "receipts.jsonl").read_text("utf-8").splitlines()
    project.write("receipts.jsonl", lines[0].replace("10.00", "20.00").replace("GRAND TOTAL", "GRAND") + "\n")


class Occupied(FaultyStore):
    """A store with foreign bytes under every key of a delta of one collection."""

    async def create(self, key: str, body: bytes) -> str:
        if key.startswith("lines/delta/"):
            await self.put(key, b"something else")
        return await super().create(key, body)


RECEIPT = {
    "image_id": "img",
    "receipt_id": 1,
    "lines": [
        {
            "line_id": 1,
            "text": "TOTAL",
            "bounding_box": {"x": 1, "y": 1, "width": 9, "height": 2},
            "words": [
                {"word_id": 1, "text": "TOTAL", "bounding_box": {"x": 1, "y": 1, "width": 9, "height": 2}}
            ],
        }
    ],
}


async def test_run_foreign_bytes_under_a_delta_key_fail_one_collection(project: Project) -> None:
    """Where a delta's key is taken the run says so; other collections are committed, and the next run repairs it."""
    project.write_lines("r.jsonl", [RECEIPT])
    async with await project.open() as bed:
        await bed.add("r", kind="receipts", location="r.jsonl")
    plain = await project.open()
    async with Flowbed(plain.folder, plain.settings, Occupied(plain._store), plain._ledger) as bed:
        report = await bed.run()
        (problem,) = report.failures
        assert "is not the delta of this run" in problem.reason
        assert (len(project.documents("lines")), len(project.documents("words"))) == (0, 1)
        assert (await bed.status()).chunks == {"NONE": 1, "SUCCESS": 1}
    for file in (project.folder / ".flowbed" / "store" / "lines" / "delta").rglob("delta.arrow"):
        file.unlink()
    async with await project.open() as bed:
        assert (await bed.run()).failed == 0
    assert len(project.documents("lines")) == 1


async def test_fail_interrupted_leaves_the_dead_letter(
    notes: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run that ends while a failure is being recorded leaves its dead letter behind, never the failure alone."""

    async def ends(*_: object, **__: object) -> None:
        raise Transient("the ledger went away")

    notes.write("notes/bad.txt", "POISON")
    async with await notes.open() as bed:
        with monkeypatch.context() as patched:
            patched.setattr(bed._ledger.chunks, "fail", ends)
            with pytest.raises(Transient):
                await bed.run()
        assert [letter.subject for letter in await bed.dead_letters()] == ["notes#bad.txt#00000"]
        assert (await bed.run()).failed == 1
        assert (await bed.status()).chunks == {"SUCCESS": 4, "FAILED": 1}
