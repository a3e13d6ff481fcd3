"""Projects that real processes work on, and are killed at."""

from __future__ import annotations

import asyncio
import json
import os
import random
import re
import shutil
import subprocess
import sys
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pytest

import flowbed
from flowbed.pipeline.changes import BATCH_CHUNKS
from flowbed.testing.index import Contents, contents_of

if TYPE_CHECKING:
    import signal
    from collections.abc import Sequence
    from pathlib import Path

    from flowbed.pipeline.inspect import BedStatus
    from flowbed.testing.counting import CountingProcess

# Few texts a request and few requests at once, so that what is in flight is little of what there is.
ITEMS, CONCURRENCY = 20, 2

WORDS = (
    "amber",
    "basin",
    "cedar",
    "delta",
    "ember",
    "fjord",
    "grove",
    "heath",
    "islet",
    "jetty",
    "knoll",
    "weir",
)


@dataclass(frozen=True, kw_only=True)
class Ran:
    """What one process came to."""

    returncode: int
    stdout: str
    stderr: str

    @property
    def report(self) -> dict[str, Any]:
        """The report that a finished run prints last."""
        report: dict[str, Any] = json.loads(self.stdout.splitlines()[-1])
        return report

    @property
    def in_flight(self) -> int:
        """Texts whose request this process had begun, and whose vectors it had not kept yet, by its own log."""

        def texts(point: str) -> int:
            return sum(map(int, re.findall(rf"{re.escape(point)} {{'\w+': (\d+)}}", self.stderr)))

        return texts("request.sent") - texts("vectors.kept")


@dataclass(frozen=True)
class Project:
    """A project folder, worked on by processes of their own."""

    folder: Path

    def write_source(self, name: str, kind: str, location: str) -> None:
        """Add a source to the project's settings."""
        file = self.folder / "flowbed.toml"
        before = file.read_text("utf-8") if file.exists() else 'model = "seeded:32"\n'
        file.write_text(f'{before}\n[sources.{name}]\nkind = "{kind}"\nlocation = "{location}"\n', "utf-8")

    def write_lines(self, name: str, records: Sequence[object]) -> None:
        """Write a file of JSON Lines."""
        (self.folder / name).write_text("".join(f"{json.dumps(record)}\n" for record in records), "utf-8")

    def write_text(self, name: str, text: str) -> None:
        """Write a file of text."""
        (self.folder / name).parent.mkdir(exist_ok=True)
        (self.folder / name).write_text(f"{text}\n", "utf-8")

    def environment(self, provider: CountingProcess) -> dict[str, str]:
        """Send texts to the counting process, a few at a time."""
        return {
            **{name: value for name, value in os.environ.items() if not name.startswith("FLOWBED_")},
            "FLOWBED_MODEL_OPTIONS__SERVER": provider.address,
            "FLOWBED_MODEL_OPTIONS__ITEMS": str(ITEMS),
            "FLOWBED_CONCURRENCY": str(CONCURRENCY),
        }

    def run(self, provider: CountingProcess, *arguments: str, at: str = "") -> Ran:
        """Run to the end, or until the point named (POINT:N) kills the process."""
        start = ["-m", "flowbed.testing.failpoints", at, "--"] if at else ["-m", "flowbed"]
        ended = subprocess.run(
            [sys.executable, *start, "run", "--json", "-v", *arguments],
            cwd=self.folder,
            env=self.environment(provider),
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        return Ran(returncode=ended.returncode, stdout=ended.stdout, stderr=ended.stderr)

    async def begun(self, provider: CountingProcess, *arguments: str, after: str = "") -> Running:
        """Start a run, and wait until its log says `after`, where that is given."""
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "flowbed", "run", "--json", "-v", *arguments),
            cwd=self.folder,
            env=self.environment(provider),
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        assert process.stderr is not None
        log = b""
        while after and (line := await process.stderr.readline()):
            log += line
            if after.encode() in line:
                break
        return Running(process, log.decode())

    def anew(self, folder: Path) -> Contents:
        """Give the index that a new project in `folder` makes of the same sources when nothing happens to it."""
        shutil.copytree(self.folder, folder, ignore=shutil.ignore_patterns(".flowbed"))
        return Project(folder).indexed()

    def copy(self, folder: Path) -> Project:
        """Copy the project as it stands."""
        shutil.copytree(self.folder, folder)
        return Project(folder)

    def indexed(self) -> Contents:
        """Run without being disturbed, and give the index."""
        with flowbed.open(self.folder) as bed:
            assert bed.run().failed == 0
        self.assert_finished()
        return self.contents()

    def contents(self) -> Contents:
        """Read the index."""
        return contents_of(self.folder)

    def status(self) -> BedStatus:
        """Say where everything stands."""
        with flowbed.open(self.folder) as bed:
            return bed.status()

    def assert_finished(self) -> None:
        """Check that nothing is left to do, is held, or was given up."""
        status = self.status()
        with flowbed.open(self.folder) as bed:
            plan = bed.plan()
        assert set(status.chunks) <= {"SUCCESS"}
        assert (status.dead_letters, status.pending) == (0, ())
        assert (plan.new, plan.changed, plan.deleted, plan.waiting, plan.tokens) == (0, 0, 0, 0, 0)


@dataclass(frozen=True)
class Running:
    """A run in a process of its own, and what it has logged until now."""

    process: asyncio.subprocess.Process
    log: str

    async def ended(self, signal_: signal.Signals | None = None, *, after: float = 0.0) -> Ran:
        """Wait for the end, and before that send a signal `after` some seconds, unless it has ended by then."""
        try:
            if signal_ is not None:
                await asyncio.sleep(after)
                with suppress(ProcessLookupError):
                    self.process.send_signal(signal_)
            stdout, rest = await asyncio.wait_for(self.process.communicate(), 60)
        finally:
            with suppress(ProcessLookupError):
                self.process.kill()
            await self.process.wait()
        assert self.process.returncode is not None
        return Ran(
            returncode=self.process.returncode, stdout=stdout.decode(), stderr=self.log + rest.decode()
        )


def sentence(chance: random.Random, words: int = 8) -> str:
    """Make up a sentence that ends in a number of its own, so that no two are alike."""
    return f"{' '.join(chance.choices(WORDS, k=words))} {chance.getrandbits(40)}"


def receipt(number: int, chance: random.Random, lines: int = 4) -> dict[str, Any]:
    """Make up a receipt."""
    words = 0
    made = []
    for line in range(1, lines + 1):
        row = [*chance.choices(WORDS, k=2), str(chance.getrandbits(32))]
        made.append(
            {
                "line_id": line,
                "text": " ".join(row),
                "words": [{"word_id": words + place, "text": word} for place, word in enumerate(row, 1)],
            }
        )
        words += len(row)
    return {
        "image_id": f"image-{number}",
        "receipt_id": 1,
        "merchant_name": WORDS[number % 5].upper(),
        "lines": made,
    }


@pytest.fixture(scope="session")
def edited(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """Give a project of files and receipts that was indexed whole, and then edited in every way there is.

    Files and receipts were changed, deleted and added, and two sources with new collections came along; one of these
    has more chunks than a batch file holds.
    """
    project = Project(tmp_path_factory.mktemp("edited"))
    chance = random.Random(11)
    for number in range(12):
        project.write_text(f"docs/{number:02d}.md", f"# {number}\n\n{sentence(chance, 40)}")
    receipts = [receipt(number, chance) for number in range(10)]
    project.write_lines("receipts.jsonl", receipts)
    project.write_source("docs", "files", "docs")
    project.write_source("receipts", "receipts", "receipts.jsonl")
    project.indexed()
    for number in (1, 4, 7):
        project.write_text(f"docs/{number:02d}.md", f"# {number} again\n\n{sentence(chance, 40)}")
    for number in (2, 5):
        (project.folder / "docs" / f"{number:02d}.md").unlink()
    for number in range(20, 24):
        project.write_text(f"docs/{number:02d}.txt", sentence(chance, 40))
    receipts[3] = receipt(3, chance, lines=2)
    receipts[6]["merchant_name"] = "ANOTHER"  # the same texts, so that only the rows change
    del receipts[8]
    project.write_lines("receipts.jsonl", [*receipts, *(receipt(number, chance) for number in range(30, 36))])
    shared = [sentence(chance) for _ in range(160)]
    project.write_lines(
        "notes.jsonl",
        [{"id": f"n{number}", "text": shared[number % 160]} for number in range(BATCH_CHUNKS + 50)],
    )
    project.write_lines("more.jsonl", [{"id": number, "text": sentence(chance)} for number in range(60)])
    project.write_source("notes", "jsonl", "notes.jsonl")
    project.write_source("more", "jsonl", "more.jsonl")
    return project


@pytest.fixture(scope="session")
def uninterrupted(edited: Project, tmp_path_factory: pytest.TempPathFactory) -> Contents:
    """Give the index that the edited project comes to when nothing happens to it."""
    return edited.copy(tmp_path_factory.mktemp("uninterrupted") / "project").indexed()


@pytest.fixture
def project(tmp_path: Path) -> Project:
    """Give a project with nothing in it."""
    (tmp_path / "project").mkdir()
    return Project(tmp_path / "project")
