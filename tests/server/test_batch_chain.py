"""The whole chain of the batch lane: one project hands its texts to the server of another, which has a local model."""

from __future__ import annotations

import asyncio
import json
import signal
import socket
import subprocess
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

from flowbed.bed import aopen
from flowbed.testing.index import contents_of, differences

if TYPE_CHECKING:
    from pathlib import Path

    from flowbed.bed import Flowbed

NAME = "sentence-transformers/all-MiniLM-L6-v2"
MODEL = f"onnx:{NAME}"
# Distinct texts: as many as the server answers in two parts.
TEXTS = 1_500
SECONDS = 60


@dataclass
class Server:
    """`flowbed serve` in a process of its own, which can be killed and begun again at the same address."""

    folder: Path
    port: int = 0

    def __enter__(self) -> Self:
        """Begin it."""
        with socket.create_server(("127.0.0.1", 0)) as listening:
            self.port = listening.getsockname()[1]
        self.begin()
        return self

    def __exit__(self, *_: object) -> None:
        """End it."""
        self.end(signal.SIGTERM)

    def begin(self) -> None:
        """Start the process, and wait until it serves."""
        arguments = ("serve", "--config", str(self.folder), "--port", str(self.port), "--json")
        with (self.folder / "errors.txt").open("ab") as errors:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "flowbed", *arguments], stdout=subprocess.PIPE, stderr=errors
            )
        assert self._process.stdout is not None
        assert json.loads(self._process.stdout.readline())["models"] == [NAME]

    def end(self, number: signal.Signals) -> None:
        """Send the process a signal that ends it."""
        with self._process:
            self._process.send_signal(number)
            self._process.wait(SECONDS)


def write_slice(receipts: Path, file: Path, texts: int) -> None:
    """Write the first receipts that have so many distinct texts."""
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


async def test_a_server_of_flowbed_is_a_batch_api_for_another(data: Path, tmp_path: Path) -> None:
    """Killed in the middle of the job, and begun again, it answers all of it: the index is that of the local model."""
    receipts = tmp_path / "receipts.jsonl"
    write_slice(data / "receipts.jsonl", receipts, TEXTS)
    (tmp_path / "server").mkdir()
    (tmp_path / "server" / "flowbed.toml").write_text(f'model = "{MODEL}"\n', "utf-8")
    with Server(tmp_path / "server") as server:
        client = write_project(
            tmp_path / "client",
            receipts,
            f'model = "compatible:{NAME}"\n[providers.compatible]\n'
            f'base_url = "http://127.0.0.1:{server.port}/v1"\nbatch = "true"\nsame_as = "{MODEL}"\n',
        )
        async with await aopen(client) as bed:
            report = await bed.run(lane="batch")
            assert (report.failures, report.embedded) == ((), 0)
            await begun(bed)
            await asyncio.to_thread(server.end, signal.SIGKILL)
            assert "asked again by the next run" in (await bed.poll()).tally.failures[0].reason
            await asyncio.to_thread(server.begin)
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
    """Wait until some of a job is done, and by far not all of it."""
    while True:
        (row,) = (await bed.poll()).pending
        if row.done:
            assert row.done < row.texts
            return
        await asyncio.sleep(0.1)
