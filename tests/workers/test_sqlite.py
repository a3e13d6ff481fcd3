"""One worker over SQLite: sources are fetched by their schedule, embedded, committed and published."""

from __future__ import annotations

import asyncio
import json
import os
import signal
from typing import TYPE_CHECKING

import pytest
from tests.support.processes.running import start

from flowbed.bed import aopen
from flowbed.errors import Misconfigured
from flowbed.records import Status
from flowbed.settings import Settings
from flowbed.settings.project import QueueSettings, WorkerSettings
from flowbed.testing.index import contents_of
from flowbed.workers.opening import limits_of
from flowbed.workers.pipeline import Sync

if TYPE_CHECKING:
    from pathlib import Path

PATIENCE = 60.0  # s
SETTINGS = """\
model = "seeded:32"
[workers]
sweep_seconds = 0.2
poll_seconds = 0.1
engine = "{engine}"
[sources.notes]
kind = "jsonl"
location = "notes.jsonl"
every = "1s"
[publish.notes]
kind = "parquet"
"""


def write(folder: Path, texts: list[str]) -> None:
    draft = folder / "draft"
    draft.write_text("".join(f"{json.dumps({'id': text, 'text': text})}\n" for text in texts))
    draft.rename(folder / "notes.jsonl")


async def reached(folder: Path, texts: int) -> None:
    """Wait until so many texts are in the index."""
    async with asyncio.timeout(PATIENCE), await aopen(folder) as bed:
        while await bed.ledger.chunks.counts() != {("notes", Status.SUCCESS): texts}:  # noqa: ASYNC110
            await asyncio.sleep(0.05)


@pytest.mark.parametrize("engine", ["auto", pytest.param("durable", marks=pytest.mark.long)])
async def test_worker_on_sqlite_follows_its_sources_until_stopped(tmp_path: Path, engine: str) -> None:
    (tmp_path / "flowbed.toml").write_text(SETTINGS.format(engine=engine))
    write(tmp_path, ["one", "two"])
    working = start("worker", "--json", folder=tmp_path, variables={})
    try:
        await reached(tmp_path, 2)
        write(tmp_path, ["one", "three", "four"])
        await reached(tmp_path, 3)
        assert working.process.pid is not None
        os.kill(working.process.pid, signal.SIGTERM)
        ran = await working.ended()
    except BaseException:
        working.kill()
        raise
    assert ran.returncode == 0, ran.stderr
    assert ran.stderr == ""
    assert ran.report["queues"]["embed"] == 4
    rows = contents_of(tmp_path).rows["notes"]
    assert sorted(row.document for row in rows.values()) == ["four", "one", "three"]
    assert (tmp_path / ".flowbed" / "tasks.db").exists() == (engine == "durable")


async def test_sync_source_that_another_worker_has_just_fetched_is_not_fetched_again(tmp_path: Path) -> None:
    (tmp_path / "flowbed.toml").write_text(
        SETTINGS.format(engine="local").replace('every = "1s"', 'every = "1h"')
    )
    write(tmp_path, ["one"])
    async with await aopen(tmp_path) as bed:
        stage = Sync(bed)
        (task,) = await stage.waiting()
        assert task.key == "notes"
        assert [each.workflow for each in await stage.run("notes")] == ["embed"]
        assert await stage.waiting() == []
        assert await stage.run("notes") == ()
        assert await stage.run("unknown") == ()


def test_limits_are_those_of_the_settings_and_of_the_command() -> None:
    config = Settings(
        workers=WorkerSettings(
            queues={"embed": QueueSettings(worker=8, everywhere=6), "fetch": QueueSettings()}
        )
    )
    found = limits_of(config)
    assert (found["embed"].worker, found["embed"].everywhere) == (6, 6)
    assert (found["fetch"].worker, found["commit"].partition) == (2, 1)
    assert set(limits_of(config, ["commit"])) == {"commit"}
    assert limits_of(config, ["commit"], 5)["commit"].worker == 5
    with pytest.raises(Misconfigured, match="no queue 'embd'"):
        limits_of(config, ["embd"])
