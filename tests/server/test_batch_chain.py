"""The batch lane end to end: one project sends its texts to another's server, which has a local model."""

from __future__ import annotations

import asyncio
import json
import socket
from contextlib import ExitStack
from typing import TYPE_CHECKING

from tests.server.processes import SECONDS, ServerProcess

from flowbed.bed import aopen
from flowbed.testing.index import contents_of, differences

if TYPE_CHECKING:
    from pathlib import Path

    from flowbed.bed import Flowbed

NAME = "sentence-transformers/all-MiniLM-L6-v2"
MODEL = f"onnx:{NAME}"
# Distinct texts: the server answers them in two parts.
TEXTS = 1_500


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
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    with ExitStack() as stack:

        def start() -> ServerProcess:
            process = ServerProcess(tmp_path / "server", "--port", str(port))
            stack.callback(process.close)
            assert process.started["models"] == [NAME]
            return process

        server = start()
        client = write_project(
            tmp_path / "client",
            receipts,
            f'model = "compatible:{NAME}"\n[providers.compatible]\n'
            f'base_url = "http://127.0.0.1:{port}/v1"\nbatch = "true"\nsame_as = "{MODEL}"\n',
        )
        async with await aopen(client) as bed:
            report = await bed.run(lane="batch")
            assert (report.failures, report.embedded) == ((), 0)
            await begun(bed)
            await asyncio.to_thread(server.kill)
            assert "the next run asks again" in (await bed.poll()).tally.failures[0].reason
            await asyncio.to_thread(start)
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


async def begun(bed: Flowbed) -> None:
    """Wait until a small part of a job is done."""
    async with asyncio.timeout(SECONDS):
        while True:
            (row,) = (await bed.poll()).pending
            if row.done:
                assert row.done < row.texts
                return
            await asyncio.sleep(0.1)
