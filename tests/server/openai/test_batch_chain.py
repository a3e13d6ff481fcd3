"""The batch lane end to end: one project sends its texts to another's server, which has a local model."""

from __future__ import annotations

import asyncio
import json
import os
import signal
from contextlib import ExitStack
from typing import TYPE_CHECKING

import pytest
from tests.server.processes import SECONDS, ForkedServer
from tests.support.processes.running import fork

from flowbed.bed import aopen
from flowbed.cli.app import run
from flowbed.services.batches import execution
from flowbed.testing.faults import die
from flowbed.testing.index import contents_of, differences
from flowbed.testing.servers import free_port

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from tests.support.processes.running import Forked

    from flowbed.services.batches.output import OutputPart

NAME = "sentence-transformers/all-MiniLM-L6-v2"
MODEL = f"onnx:{NAME}"
# Distinct texts: several calls of the server's model.
TEXTS = 300


class DyingServer(ForkedServer):
    """A server that is killed when the first part of a batch, one call of the model, is counted."""

    def _fork(self, folder: Path, command: Sequence[str], variables: Mapping[str, str], log: Path) -> Forked:
        return fork(serve_until_counted, folder, command, variables=variables, log=log)


def serve_until_counted(folder: Path, command: Sequence[str]) -> int:
    """Serve, and die once a part of a batch is counted and lines are left."""
    patch = pytest.MonkeyPatch()
    patch.setattr(execution, "PART_SECONDS", 0.02)
    count = execution.JobExecution._count

    async def count_and_die(job: execution.JobExecution, part: OutputPart) -> None:
        await count(job, part)
        if job._row.line < job._row.total:
            die()

    patch.setattr(execution.JobExecution, "_count", count_and_die)
    os.chdir(folder)
    return run(command)


def write_slice(receipts: Path, file: Path, texts: int) -> None:
    """Write the first receipts, until they have this many distinct texts."""
    seen: set[str] = set()
    with receipts.open(encoding="utf-8") as lines, file.open("w", encoding="utf-8") as written:
        for line in lines:
            for each in json.loads(line)["lines"]:
                seen |= {each["text"], *(word["text"] for word in each["words"])}
            written.write(line)
            if len(seen) >= texts:
                return


def write_project(folder: Path, receipts: Path, settings: str) -> Path:
    """Write a project of receipts."""
    folder.mkdir()
    source = f'[sources.receipts]\nkind = "receipts"\nlocation = "{receipts}"\n'
    folder.joinpath("flowbed.toml").write_text(f"{settings}\n{source}", "utf-8")
    return folder


async def test_batch_lane_server_killed_midway_builds_the_same_index(data: Path, tmp_path: Path) -> None:
    receipts = tmp_path / "receipts.jsonl"
    write_slice(data / "receipts.jsonl", receipts, TEXTS)
    (tmp_path / "server").mkdir()
    (tmp_path / "server" / "flowbed.toml").write_text(f'model = "{MODEL}"\n', "utf-8")
    port = free_port()
    with ExitStack() as stack:

        def start(server: type[ForkedServer]) -> ForkedServer:
            process = server(tmp_path / "server", "--port", str(port))
            stack.callback(process.close)
            assert process.started["models"] == [NAME]
            return process

        server = start(DyingServer)
        client = write_project(
            tmp_path / "client",
            receipts,
            f'model = "compatible:{NAME}"\n[providers.compatible]\n'
            f'base_url = "http://127.0.0.1:{port}/v1"\nbatch = "true"\nsame_as = "{MODEL}"\n',
        )
        async with await aopen(client) as bed:
            report = await bed.run(lane="batch")
            assert (report.failures, report.embedded) == ((), 0)
            assert await asyncio.to_thread(server.process.wait, SECONDS) == -signal.SIGKILL
            assert "the next run asks again" in (await bed.poll()).tally.failures[0].reason
            await asyncio.to_thread(start, ForkedServer)
            report = await bed.run(lane="batch", wait=True)
            assert (report.failures, report.submissions) == ((), ())
            (ended,) = await bed.submissions(live=False)
            assert (ended.state, ended.done, ended.failed) == ("completed", ended.texts, 0)
            assert report.embedded == ended.texts
            assert set((await bed.status()).chunks) == {"SUCCESS"}
    local = write_project(tmp_path / "local", receipts, f'model = "{MODEL}"\n')
    async with await aopen(local) as bed:
        assert (await bed.run(lane="realtime")).failures == ()
    assert differences(contents_of(client), contents_of(local)) == []
