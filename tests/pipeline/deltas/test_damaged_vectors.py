"""Vectors that a disk damaged are embedded again, wherever they lie, and reach no index."""

from __future__ import annotations

import contextlib
import shutil
import sqlite3
from typing import TYPE_CHECKING

import lance
import numpy as np
import pyarrow as pa
import pytest

from flowbed.testing.embedder import seeded

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray
    from tests.support.projects import Project

NAN = b"\xff" * (4 * 32)
TEXTS = {f"{number}.txt": f"document {number}" for number in range(12)}


def damage_cache(project: Project, value: bytes, *, rows: int) -> None:
    """Overwrite some cached vectors."""
    with (
        contextlib.closing(sqlite3.connect(project.folder / ".flowbed" / "vectors" / "vectors.db")) as file,
        file,
    ):
        changed = file.execute("UPDATE vectors SET vector = ? WHERE id <= ?", [value, rows])
        assert changed.rowcount == rows


def index_of(project: Project, collection: str) -> str:
    (found,) = (project.folder / ".flowbed" / "store" / collection / "index").glob("*.lance")
    return str(found)


def vectors(project: Project, collection: str) -> Mapping[str, NDArray[np.float32]]:
    """Read the vectors of a collection by text."""
    rows = lance.dataset(index_of(project, collection)).to_table().to_pylist()
    return {row["document"]: np.array(row["vector"], np.float32) for row in rows}


@pytest.mark.parametrize("value", [NAN, bytes(4 * 32), b"\x01" * (4 * 32)])
async def test_repair_damaged_cached_vectors_are_embedded_again(project: Project, value: bytes) -> None:
    """After the index is lost, the whole vectors are reused, and the others sent once more."""
    for name, text in TEXTS.items():
        project.write(f"docs/{name}", text)
    async with await project.open() as bed:
        await bed.add("docs", kind="files", location="docs")
        assert (await bed.run()).failed == 0
    project.sent()
    damage_cache(project, value, rows=3)
    shutil.rmtree(index_of(project, "docs"))
    async with await project.open() as bed:
        await bed.verify(repair=True)
        report = await bed.run()
        assert (report.failed, report.embedded, report.chunks) == (0, 3, len(TEXTS))
        assert not any(each.faults for each in (await bed.verify()).values())
        assert (await bed.doctor()).findings == ()
    assert sum(project.sent().values()) == 3
    found = vectors(project, "docs")
    for text in TEXTS.values():
        np.testing.assert_allclose(found[text], seeded([text], 32)[0], atol=1e-6)


async def test_run_damaged_vector_in_an_index_is_not_reused(project: Project) -> None:
    """Where the cache is gone, whole vectors come from the index of another collection, damaged ones are embedded."""
    for name, text in TEXTS.items():
        project.write(f"docs/{name}", text)
        project.write(f"copies/{name}", text)
    async with await project.open() as bed:
        await bed.add("docs", kind="files", location="docs")
        await bed.run()
        await bed.add("copies", kind="files", location="copies")
    project.sent()
    shutil.rmtree(project.folder / ".flowbed" / "vectors")
    dataset = lance.dataset(index_of(project, "docs"))
    rows = dataset.to_table(filter="document IN ('document 1', 'document 2')")
    bad = np.array([[np.nan] * 32, [0.0] * 32], np.float32)
    column = pa.FixedSizeListArray.from_arrays(pa.array(bad.ravel()), 32)
    changed = rows.set_column(rows.schema.get_field_index("vector"), rows.schema.field("vector"), column)
    dataset.merge_insert("id").when_matched_update_all().use_index(False).execute(changed)
    async with await project.open() as bed:
        report = await bed.run("copies")
    assert (report.failed, report.chunks) == (0, len(TEXTS))
    assert set(project.sent()) == {"document 1", "document 2"}
    found = vectors(project, "copies")
    for text in TEXTS.values():
        np.testing.assert_allclose(found[text], seeded([text], 32)[0], atol=1e-6)
