"""Batch files that someone else has written over: what is whole is read, and what is not is lost by itself."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.support.projects import Project


async def damaged(
    project: Project, damage: Callable[[list[Any]], None], start: bytes = b""
) -> tuple[int, list[str]]:
    """Damage the batch file of three texts before it is embedded; return how many are indexed, and the failures."""
    for number in range(3):
        project.write(f"notes/{number}.txt", f"note {number} of {project.folder}")
    async with await project.open() as bed:
        await bed.add("notes", kind="files", location="notes")
        await bed.run(limit=0)
        (file,) = files(project.folder)
        said = json.loads(file.read_bytes())
        damage(said["chunks"])
        file.write_bytes(start + json.dumps(said).encode())
        report = await bed.run()
    return len(project.documents("notes")), [problem.reason for problem in report.failures]


def files(folder: Path) -> list[Path]:
    return list((folder / ".flowbed" / "store" / "notes" / "chunked").rglob("batch_*.json"))


@pytest.mark.parametrize(
    "chunk",
    [
        None,
        5,
        {},
        {"id": 1, "collection": "notes", "text": "x", "metadata": {}},
        {"id": "notes#0.txt#00000", "collection": "notes", "text": 5, "metadata": {}},
        {"id": "notes#0.txt#00000", "collection": "notes", "text": None, "metadata": {}},
        {"id": "notes#0.txt#00000", "collection": "notes", "text": "x", "sent": [], "metadata": {}},
        {"id": "notes#0.txt#00000", "collection": "notes", "text": "x"},
        {"id": "notes#0.txt#00000", "collection": "notes", "text": "x", "metadata": {"a": None}},
        {"id": "notes#0.txt#00000", "collection": ["notes"], "text": "x", "metadata": {}},
    ],
)
async def test_damaged_chunk_is_lost_by_itself(project: Project, chunk: object) -> None:
    """A chunk that is no chunk fails with the reason, and those beside it in the file are embedded."""

    def damage(chunks: list[Any]) -> None:
        chunks[0] = chunk

    indexed, failures = await damaged(project, damage)
    assert indexed == 2
    (reason,) = failures
    assert "does not hold its text" in reason


async def test_byte_order_mark_of_a_batch_file_is_ignored(project: Project) -> None:
    """A file that was saved with a byte order mark is read."""
    assert await damaged(project, lambda _chunks: None, b"\xef\xbb\xbf") == (3, [])
