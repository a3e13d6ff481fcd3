"""Odd sources through a whole run: problems are named, the rest is indexed, memory and waiting are bounded."""

from __future__ import annotations

import asyncio
import json
import shutil
import threading
from dataclasses import dataclass, field
from functools import partial
from random import Random
from typing import TYPE_CHECKING

import pytest
from tests.support.odd_files import odd_lines, odd_receipt, odd_record, odd_text

from flowbed.chunking import Rules
from flowbed.ledger.sql.ledger import open_sqlite
from flowbed.pipeline import ConfiguredSource
from flowbed.pipeline.changes import changes
from flowbed.pipeline.comparing.records import Scan
from flowbed.records import Document, Entry, Page, Reading

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from pathlib import Path

    from tests.support.projects import Project

    from flowbed.ledger import Ledger


def receipt(number: int, **fields: object) -> dict[str, object]:
    box = {"x": 0.1, "y": 0.1, "width": 0.2, "height": 0.1}
    line = {
        "line_id": 1,
        "text": f"MILK {number}",
        "bounding_box": box,
        "words": [{"word_id": 1, "text": "MILK"}],
    }
    return {"image_id": f"i{number}", "receipt_id": 1, "lines": [line], **fields}


@pytest.mark.parametrize("seed", [1, *(pytest.param(seed, marks=pytest.mark.long) for seed in range(2, 40))])
async def test_run_odd_files_are_named_and_the_rest_is_consistent(project: Project, seed: int) -> None:
    """Odd files end no run, all that is wrong with them is named, and what was indexed passes every check."""
    random = Random(seed)
    for folder in ("docs", "records", "receipts"):
        (project.folder / folder).mkdir()
    for number in range(40):
        suffix = random.choice(("md", "txt", "MD"))
        (project.folder / "docs" / f"{number}.{suffix}").write_bytes(odd_text(random))
        (project.folder / "records" / f"{number}.jsonl").write_bytes(
            odd_lines(random, odd_record, 100 * number)
        )
        (project.folder / "receipts" / f"{number}.json").write_bytes(
            odd_lines(random, odd_receipt, 100 * number)
        )
    async with await project.open() as bed:
        await bed.add("docs", kind="files", location="docs")
        await bed.add("records", kind="jsonl", location="records", options={"metadata": ["n", "a.b"]})
        await bed.add("receipts", kind="receipts", location="receipts")
        first = await bed.run()
        assert min(first.chunks, first.failed) > 20
        assert all(problem.subject and problem.reason for problem in first.failures)
        again = await bed.run()
        assert (again.fetched, again.embedded, again.failed) == (0, 0, first.failed)
        assert {finding.check for finding in (await bed.doctor()).findings} == {"dead-letters"}
        assert not any(found.faults for found in (await bed.verify()).values())


async def test_run_receipt_with_number_that_does_not_fit_is_a_problem_by_itself(project: Project) -> None:
    """Receipts with numbers beyond every limit are named, and their neighbours are indexed without a fault."""
    bad = (
        json.dumps(receipt(1, total=2**64)),
        json.dumps(receipt(2, total=10**400)),
        json.dumps(receipt(3)).replace("0.2", "1" + "0" * 400),
        json.dumps(receipt(4)).replace("0.2", "1e999"),
        json.dumps(receipt(5)).replace("0.2", "NaN"),
        json.dumps(receipt(6)).replace('"line_id": 1', '"line_id": 9223372036854775808'),
        json.dumps(receipt(2**63)).replace('"receipt_id": 1', '"receipt_id": 9223372036854775808'),
    )
    lines = [json.dumps(receipt(100 + number)) for number in range(3)]
    project.write("receipts.jsonl", "\n".join([lines[0], *bad, *lines[1:]]))
    async with await project.open() as bed:
        await bed.add("receipts", kind="receipts", location="receipts.jsonl")
        report = await bed.run()
        assert (report.fetched, report.failed, report.embedded > 0) == (3, len(bad), True)
        assert len(project.documents("lines")) == 3
        assert {finding.check for finding in (await bed.doctor()).findings} == {"dead-letters"}
        assert not any(found.faults for found in (await bed.verify()).values())
        project.write("receipts.jsonl", "\n".join(lines))
        assert (await bed.run()).failed == 0
        assert (await bed.doctor()).findings == ()


async def test_run_copied_project_embeds_and_writes_nothing(project: Project) -> None:
    """A copy of a project has other inodes and times: its files are read again, and their hash decides."""
    for number in range(3):
        project.write(f"docs/{number}.txt", f"text {number} of {project.folder}")
    async with await project.open() as bed:
        await bed.add("docs", kind="files", location="docs")
        await bed.run()
    project.sent()
    project.folder = shutil.copytree(project.folder, project.folder.with_name("copy"))
    async with await project.open() as bed:
        report = await bed.run()
    assert (report.fetched, report.chunks, report.embedded) == (0, 0, 0)
    assert not project.sent()


@dataclass
class Long:
    """A source of long documents; it counts those that were read."""

    documents: int
    text: str
    location: str = "nowhere"
    read: int = field(default=0, init=False)

    async def fetch(self, cursor: str) -> AsyncIterator[Page]:
        entries = [
            Entry(document=str(number), etag="1", read=partial(self._document, str(number)))
            for number in range(self.documents)
        ]
        yield Page(entries=entries, cursor=cursor, complete=True)

    def _document(self, name: str) -> Document:
        self.read += 1
        return Document(id=name, kind="text", text=self.text)


async def compared(source: Long, ledger: Ledger, count: Callable[[str], int]) -> AsyncIterator[int]:
    """Yield the number of documents of each change."""
    feed = ConfiguredSource(source=source, rules=Rules(source="s", collections=("s",), capacity=16))
    progress = (await ledger.documents.progress(["s"]))["s"]
    found = changes(
        feed,
        progress,
        ledger=ledger,
        read=lambda text: Reading(sent=text, tokens=count(text)),
        clock=lambda: 1,
        scan=Scan(),
        allow_deletes=False,
    )
    async for change in found:
        yield len(change.documents)


async def test_changes_long_documents_are_read_one_batch_at_a_time(tmp_path: Path) -> None:
    """Documents that make a batch of chunks each are not held together with the next ones."""
    source = Long(documents=6, text="a line of seven words in a row\n" * 5_000)
    ledger = await open_sqlite(":memory:", folder=tmp_path, new_id="test")
    done = 0
    try:
        async for documents in compared(source, ledger, lambda text: len(text.split())):
            done += documents
            assert source.read == done
    finally:
        await ledger.close()
    assert done == 6


def test_changes_cancelled_fetch_stops_chunking(tmp_path: Path) -> None:
    """Ctrl-C while a long document is chunked ends the work at the next count of tokens."""
    counts = 0

    cancelled = threading.Event()

    async def cancel() -> None:
        source = Long(documents=1, text=" ".join(f"word{number}" for number in range(100_000)))
        ledger = await open_sqlite(":memory:", folder=tmp_path, new_id="test")
        loop, started = asyncio.get_running_loop(), asyncio.Event()

        def count(text: str) -> int:
            nonlocal counts
            counts += 1
            if counts == 50:
                loop.call_soon_threadsafe(started.set)
                assert cancelled.wait(60)
            return len(text.split())

        async def consume() -> None:
            async for _ in compared(source, ledger, count):
                pass

        working = asyncio.create_task(consume())
        try:
            await asyncio.wait_for(started.wait(), 60)
            working.cancel()
            with pytest.raises(asyncio.CancelledError):
                await working
            cancelled.set()
        finally:
            await ledger.close()

    asyncio.run(cancel())  # waits for its threads
    assert counts <= 51
