"""Writers of precomputed rows killed at each named point; the next call or run ends what they began."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
from typing import TYPE_CHECKING

import pytest
from tests.support.processes.failpoints import kill_at
from tests.support.processes.running import fork, respond

import flowbed
from flowbed import telemetry
from flowbed.bed import aopen
from flowbed.records.precomputed import PrecomputedRows
from flowbed.testing.embedder import seeded
from flowbed.testing.index import contents_of

if TYPE_CHECKING:
    from pathlib import Path

IDS = tuple(f"row-{number}" for number in range(40))


def rows(version: int) -> PrecomputedRows:
    """Make the rows of a version; the second one changes half of them, and deletes one."""
    ids = IDS if version == 1 else IDS[:20]
    texts = [None if key == "row-3" else f"{key} of {version}" for key in ids]
    return PrecomputedRows(
        ids=ids,
        vectors=seeded([text or "none" for text in texts], 16),
        texts=texts,
        metadata=[{"version": version}] * len(ids),
        deleted=["row-39"] if version == 2 else [],
    )


async def write(folder: Path, versions: tuple[int, ...]) -> None:
    async with await aopen(folder) as bed:
        for version in versions:
            await bed.write_rows("docs", rows(version))


def _write(folder: Path, point: str) -> int:
    kill_at(point)
    asyncio.run(write(folder, (2,)))
    return respond({})


@pytest.fixture(scope="module")
def begun(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a project with the first version of the rows."""
    folder = tmp_path_factory.mktemp("begun") / "project"
    folder.mkdir()
    (folder / "flowbed.toml").write_text('model = "seeded:16"\n')
    asyncio.run(write(folder, (1,)))
    return folder


@pytest.mark.parametrize("how", ["write", "run"])
@pytest.mark.parametrize("point", telemetry.INGEST_FAILPOINTS)
def test_writer_killed_at_a_point_is_ended_by_the_next_call_or_run(
    point: str, how: str, begun: Path, tmp_path: Path
) -> None:
    """Before the swap nothing has happened, and a run leaves it at that; after it the rows are never lost."""
    project = shutil.copytree(begun, tmp_path / "project")
    variables = {"PATH": os.environ["PATH"], "PYTHONPATH": os.environ["PYTHONPATH"]}
    killed = fork(_write, project, point, variables=variables).wait()
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    with flowbed.open(project) as bed:
        if how == "write":
            bed.write_rows("docs", rows(2))
        else:
            assert bed.run().embedded == 0
        assert bed.verify()["docs"].faults == ()
        assert set(bed.status().chunks) == {"SUCCESS"}
        assert bed.status().pending == ()
        assert bed.dead_letters() == []
    found = contents_of(project)
    assert found.doubled == ()
    docs = found.rows["docs"]
    early = {telemetry.BATCH_REGISTERED, telemetry.BATCH_WRITTEN}
    assert set(docs) == set(IDS) - (set() if how == "run" and point in early else {"row-39"})
    second = [key for key, row in docs.items() if row.metadata["version"] == 2]
    assert len(second) == (0 if how == "run" and point in early else 20)
    assert docs["row-3"].document == ""
