"""Large channels and exports are read in bounded memory, measured in a process of its own."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from flowbed.sources.slack.messages import day_of
from flowbed.testing.simulators import running_thread
from flowbed.testing.simulators.sources.slack import SlackSimulator, SlackWorkspace

if TYPE_CHECKING:
    from pathlib import Path

DAY = 86_400
MESSAGES_A_PAGE = 20
# Resident memory (MB) that reading may add to that after the first page, and all that a process may have.
MOST, MOST_WHOLE = 150, 400

# Reads every document, and prints how many characters there were, and the peak of memory before and after, in MB.
READ = """
import asyncio, re, sys
from pathlib import Path
from flowbed.sources import open_source

def peak():
    # Not `ru_maxrss`, which begins with that of the process that started this one.
    return int(re.search(r"VmHWM:\\s+(\\d+) kB", Path("/proc/self/status").read_text())[1]) // 1024

async def main(location, folder, options):
    source = open_source("slack", location, folder=Path(folder), options=options, clock=lambda: 2**60, token="any")
    before, characters = None, 0
    async for page in source.fetch(""):
        before = before or peak()
        characters += sum(len(entry.read().text) for entry in page.entries)
    print(characters, before, peak())

asyncio.run(main(sys.argv[1], sys.argv[2], eval(sys.argv[3])))
"""


def read(location: str, folder: Path, options: dict[str, object]) -> tuple[int, int, int]:
    """Read a workspace in another process; return its characters, and its memory at first and at most, in MB."""
    command = [sys.executable, "-c", READ, location, str(folder), repr(options)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=3_000, check=True)
    characters, before, peak = map(int, done.stdout.split())
    return characters, before, peak


def channel_of(pages: int) -> SlackWorkspace:
    """Return a channel of so many pages, with a thread in each and some pages a day."""
    workspace = SlackWorkspace()
    workspace.add_channel("C1", "ops")
    start = workspace.now - pages * DAY // 4
    for page in range(pages):
        for number in range(MESSAGES_A_PAGE):
            ts = f"{start + page * DAY // 4 + number * 60}.{number:06d}"
            workspace.post("C1", f"{page}:{number} " + "word " * 400, ts=ts)
        workspace.post("C1", "an answer", thread=ts, ts=f"{start + page * DAY // 4 + 2_000}.000000")
    workspace.now += DAY
    return workspace


def require_bounded_channel(pages: int, folder: Path) -> None:
    with running_thread(SlackSimulator(channel_of(pages)), dated=False) as url:
        characters, before, peak = read(f"{url}/api", folder, {"page": MESSAGES_A_PAGE})
    assert characters > pages * MESSAGES_A_PAGE * 2_000
    assert peak - before < MOST
    assert peak < MOST_WHOLE


def require_bounded_export(megabytes: int, folder: Path) -> None:
    """Write an export with one channel, a third of it replies to one thread, and read it."""
    (folder / "general").mkdir(parents=True)
    (folder / "channels.json").write_text('[{"id": "C1", "name": "general"}]')
    (folder / "users.json").write_text("[]")
    begin = 1_767_571_200
    for day in range(megabytes):
        some = [
            {
                "type": "message",
                "user": "U1",
                "ts": f"{begin + day * DAY + number * 30}.000100",
                "text": "word " * 200,
                **({"thread_ts": f"{begin}.000100"} if number % 3 == 0 and day < megabytes // 20 else {}),
            }
            for number in range(970)
        ]
        (folder / "general" / f"{day_of(begin + day * DAY)}.json").write_text(json.dumps(some))
    characters, before, peak = read(str(folder), folder, {})
    assert characters > megabytes * 900_000
    assert peak - before < MOST
    assert peak < MOST_WHOLE


def test_channel_of_40_pages_is_read_in_bounded_memory(tmp_path: Path) -> None:
    require_bounded_channel(40, tmp_path)


def test_export_of_10_megabytes_is_read_in_bounded_memory(tmp_path: Path) -> None:
    require_bounded_export(10, tmp_path)


@pytest.mark.long
def test_channel_of_1000_pages_is_read_in_bounded_memory(tmp_path: Path) -> None:
    require_bounded_channel(1_000, tmp_path)


@pytest.mark.long
def test_export_of_300_megabytes_is_read_in_bounded_memory(tmp_path: Path) -> None:
    require_bounded_export(300, tmp_path)
