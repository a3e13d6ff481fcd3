"""Projects for tests, with a provider that counts the texts it is sent."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import time
from collections import Counter
from typing import TYPE_CHECKING, Any

import pytest
from tests.support.counting import CountingProcess

from flowbed.bed import Flowbed, aopen
from flowbed.testing.index import Contents, contents_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path


class Project:
    """A project folder whose model, a separate process, counts the texts that it is sent."""

    def __init__(self, folder: Path, provider: CountingProcess) -> None:
        """Make the folder a project without sources, unless it is a project already."""
        self.folder = folder
        self.provider = provider
        self._seen: Counter[str] = Counter(provider.report().texts)
        if not folder.exists():
            folder.mkdir()
            self.set_model("seeded:32")

    def set_model(self, model: str, **options: str) -> None:
        """Name the model in the settings, keeping the sources."""
        file = self.folder / "flowbed.toml"
        _, mark, sources = file.read_text("utf-8").partition("\n[sources.") if file.exists() else ("", "", "")
        named = {"server": self.provider.address, **options}
        said = "".join(f'{name} = "{value}"\n' for name, value in named.items())
        file.write_text(f'model = "{model}"\n[model_options]\n{said}{mark}{sources}', "utf-8")

    def write(self, name: str, text: str) -> None:
        """Write a file."""
        (self.folder / name).parent.mkdir(parents=True, exist_ok=True)
        (self.folder / name).write_text(text, "utf-8")

    def write_lines(self, name: str, records: Sequence[object]) -> None:
        """Write a file of JSON Lines."""
        self.write(name, "".join(f"{json.dumps(record)}\n" for record in records))

    async def open(self) -> Flowbed:
        """Open the project, for use as a context."""
        return await aopen(self.folder)

    def sent(self) -> Counter[str]:
        """Count the texts sent since the last call."""
        now = Counter(self.provider.report().texts)
        new = now - self._seen
        self._seen = now
        return new

    def contents(self) -> Contents:
        """Read the index."""
        return contents_of(self.folder)

    def documents(self, collection: str) -> dict[str, str]:
        """Read the live texts of a collection by id."""
        rows = self.contents().rows.get(collection, {})
        return {key: row.document for key, row in rows.items()}


@pytest.fixture(scope="session")
def provider() -> Iterator[CountingProcess]:
    """Start a provider that counts the texts of all tests."""
    with CountingProcess() as running:
        yield running


@pytest.fixture
def project(tmp_path: Path, provider: CountingProcess) -> Project:
    """Return a project without sources."""
    return Project(tmp_path / "project", provider)


@pytest.fixture(scope="session")
def indexed_notes(tmp_path_factory: pytest.TempPathFactory, provider: CountingProcess) -> Path:
    """Return the folder of a project of four notes that was indexed; to be copied, not changed."""
    project = Project(tmp_path_factory.mktemp("notes") / "project", provider)
    tomorrow = time.time() + 86_400
    for name in ("one", "two", "three", "four"):
        project.write(f"notes/{name}.txt", f"note {name}")
        # A file just written is known by its content, not by its time and inode: a copy of it counts as unchanged.
        os.utime(project.folder / "notes" / f"{name}.txt", times=(tomorrow, tomorrow))

    async def index() -> None:
        async with await project.open() as bed:
            await bed.add("notes", kind="files", location="notes")
            report = await bed.run()
        assert (report.embedded, report.failed) == (4, 0)

    asyncio.run(index())
    return project.folder


@pytest.fixture
def notes(indexed_notes: Path, tmp_path: Path, provider: CountingProcess) -> Project:
    """Return a project of four notes in files that was indexed."""
    return Project(shutil.copytree(indexed_notes, tmp_path / "project"), provider)


@pytest.fixture
def quick_polls(monkeypatch: pytest.MonkeyPatch) -> None:
    """Poll submissions that are waited for many times a second, and retry soon: simulated jobs end at once."""
    monkeypatch.setattr("flowbed.lanes.batch.wait.POLL_FIRST", 0.02)
    monkeypatch.setattr("flowbed.lanes.batch.wait.POLL_MAX", 0.1)
    for module in ("retries", "batch.lifecycle"):
        monkeypatch.setattr(f"flowbed.lanes.{module}.WAIT_FIRST", 0.02)
        monkeypatch.setattr(f"flowbed.lanes.{module}.WAIT_JITTER", 0.02)
    monkeypatch.setattr("flowbed.events.intake.RETRIES", (0.0, 0.0))


def receipt(number: int, lines: Sequence[str], **fields: Any) -> dict[str, Any]:
    """Make a receipt of these lines."""
    made: list[dict[str, Any]] = []
    words = 0
    for line, text in enumerate(lines, 1):
        row = text.split()
        made.append(
            {
                "line_id": line,
                "text": text,
                "words": [{"word_id": words + place, "text": word} for place, word in enumerate(row, 1)],
            }
        )
        words += len(row)
    return {"image_id": f"image-{number}", "receipt_id": 1, "lines": made, **fields}


@pytest.fixture
def receipts(project: Project) -> Project:
    """Return a project of two receipts that are not indexed yet."""
    project.write_lines(
        "receipts.jsonl",
        [
            receipt(1, ["GRAND TOTAL 7.80", "CASH 10.00"], merchant_name="WAN SHENG"),
            receipt(2, ["TOTAL 7.80"], merchant_name="KEDAI BUKU"),
        ],
    )
    project.write(
        "flowbed.toml",
        f"{(project.folder / 'flowbed.toml').read_text('utf-8')}\n"
        '[sources.receipts]\nkind = "receipts"\nlocation = "receipts.jsonl"\n',
    )
    return project
