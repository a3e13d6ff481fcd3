"""Projects that real processes work on, and are killed at."""

from __future__ import annotations

import asyncio
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pytest

import flowbed
from flowbed.testing.index import Contents, contents_of

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from flowbed.testing.counting import CountingProcess

# Few texts a request and few requests at once, so that what is in flight is little of what there is.
ITEMS, CONCURRENCY = 20, 2

WORDS = ["amber", "basin", "cedar", "delta", "ember", "fjord", "grove", "heath", "islet", "jetty", "knoll", "lagoon", "marsh", "north", "oasis", "plain", "quarry", "ridge", "shoal", "tarn", "upland", "vale", "weir", "yard", "zenith"]


@dataclass(frozen=True, kw_only=True)
class Ran:
    """What one process came to; `in_flight` texts were sent and not answered when it ended."""

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
        """Texts whose request this process had begun, and of whose answer it had not told: its own log says so."""

        def texts(point: str) -> int:
            return sum(map(int, re.findall(rf"{re.escape(point)} {{'texts': (\d+)}}", self.stderr)))

        return texts("request.sent") - texts("request.answered")


@dataclass(frozen=True)
class Project:
    """A project folder, worked on by processes of their own."""

    folder: Path

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

    async def stopped(
        self,
        provider: CountingProcess,
        *,
        after: str,
        seconds: float,
        by: signal.Signals = signal.SIGKILL,
    ) -> Ran:
        """Run, and send a signal `seconds` after the log says `after`, unless the process has ended by then."""
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "flowbed", "run", "--json", "-v"),
            cwd=self.folder,
            env=self.environment(provider),
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        assert process.stderr is not None
        log = b""
        try:
            while line := await process.stderr.readline():
                log += line
                if after.encode() in line:
                    break
            await asyncio.sleep(seconds)
            with suppress(ProcessLookupError):
                process.send_signal(by)
            stdout, rest = await asyncio.wait_for(process.communicate(), 60)
        finally:
            with suppress(ProcessLookupError):
                process.kill()
            await process.wait()
        assert process.returncode is not None
        return Ran(returncode=process.returncode, stdout=stdout.decode(), stderr=(log + rest).decode())

    def contents(self) -> Contents:
        """Read the index."""
        return contents_of(self.folder)

    def assert_finished(self) -> None:
        """Check that nothing is left to do, held, or given up."""
        with flowbed.open(self.folder) as bed:
            status, plan = bed.status(), bed.plan()
        assert set(status.chunks) <= {"SUCCESS"}
        assert (status.dead_letters, status.pending) == (0, ())
        assert (plan.new, plan.changed, plan.deleted, plan.waiting, plan.tokens) == (0, 0, 0, 0, 0)

    def copy(self, folder: Path) -> Project:
        """Copy the project as it stands."""
        shutil.copytree(self.folder, folder)
        return Project(folder)


def sent_twice(provider: CountingProcess) -> int:
    """Count the texts that were sent again, each as often as it was."""
    return sum(times - 1 for times in provider.report().texts.values())


def sentence(chance: random.Random, words: int = 8) -> str:
    """Make up a sentence that says who it is by its number, so that no two are alike."""
    return f"{' '.join(chance.choices(WORDS, k=words))} {chance.getrandbits(40)}"


def write_source(folder: Path, name: str, kind: str, location: str) -> None:
    """Add a source to the project's settings."""
    file = folder / "flowbed.toml"
    before = file.read_text("utf-8") if file.exists() else 'model = "seeded:32"\n'
    file.write_text(f'{before}\n[sources.{name}]\nkind = "{kind}"\nlocation = "{location}"\n', "utf-8")


def write_lines(path: Path, records: Sequence[object]) -> None:
    """Write JSON Lines."""
    path.write_text("".join(f"{json.dumps(record)}\n" for record in records), "utf-8")


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

    Files and receipts were changed, deleted and added, and two sources with new collections came along, one of them with
    more chunks than a batch file holds.
    """
    folder = tmp_path_factory.mktemp("edited")
    chance = random.Random(11)
    docs = folder / "docs"
    docs.mkdir()
    for number in range(12):
        (docs / f"{number:02d}.md").write_text(f"# {number}\n\n{sentence(chance, 40)}\n", "utf-8")
    receipts = [receipt(number, chance) for number in range(10)]
    write_lines(folder / "receipts.jsonl", receipts)
    write_source(folder, "docs", "files", "docs")
    write_source(folder, "receipts", "receipts", "receipts.jsonl")
    with flowbed.open(folder) as bed:
        assert bed.run().failed == 0
    for number in (1, 4, 7):
        (docs / f"{number:02d}.md").write_text(f"# {number} again\n\n{sentence(chance, 40)}\n", "utf-8")
    for number in (2, 5):
        (docs / f"{number:02d}.md").unlink()
    for number in range(20, 24):
        (docs / f"{number:02d}.txt").write_text(sentence(chance, 40), "utf-8")
    receipts[3] = receipt(3, chance, lines=2)
    receipts[6]["merchant_name"] = "ANOTHER"  # the same texts, so that only the rows change
    del receipts[8]
    write_lines(folder / "receipts.jsonl", [*receipts, *(receipt(number, chance) for number in range(30, 36))])
    shared = [sentence(chance) for _ in range(160)]
    notes = [{"id": f"n{number}", "text": shared[number % 160], "title": ""} for number in range(2_100)]
    write_lines(folder / "notes.jsonl", notes)
    write_lines(folder / "more.jsonl", [{"id": number, "text": sentence(chance)} for number in range(60)])
    write_source(folder, "notes", "jsonl", "notes.jsonl")
    write_source(folder, "more", "jsonl", "more.jsonl")
    return Project(folder)


@pytest.fixture(scope="session")
def uninterrupted(edited: Project, tmp_path_factory: pytest.TempPathFactory) -> Contents:
    """Give the index that the edited project comes to when nothing happens to it."""
    project = edited.copy(tmp_path_factory.mktemp("uninterrupted") / "project")
    with flowbed.open(project.folder) as bed:
        assert bed.run().failed == 0
    project.assert_finished()
    return project.contents()
