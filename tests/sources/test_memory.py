"""Large channels, projects, exports and dumps are read in bounded memory, measured in a process of its own."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest

from flowbed.sources.discord.messages import first_id
from flowbed.sources.slack.messages import day_of
from flowbed.testing.simulators import running_thread
from flowbed.testing.simulators.sources.backlog import Backlog
from flowbed.testing.simulators.sources.discord import Discord
from flowbed.testing.simulators.sources.gitlab import GitLab
from flowbed.testing.simulators.sources.slack import SlackSimulator, SlackWorkspace

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

DAY = 86_400
BEGIN = 1_767_571_200
MESSAGES_A_PAGE = 20
# Resident memory (MB) that reading may add to that after the first page, of little and of much, and all that a process
# may have. The short forms read about 10 MB of text, which would not fit.
LITTLE, MOST, MOST_WHOLE = 12, 150, 400

# What a document in a cursor may take, with those of the pages before and of the next one (MB).
DOCUMENT = 0.001

# Characters; of more, pages and threads are larger.
LONG = 20_000_000

# Reads every document, and prints how many characters there were, and the peak of memory before and after, in MB.
READ = """
import asyncio, re, sys
from pathlib import Path
from flowbed.sources import open_source

def peak():
    # Not `ru_maxrss`, which begins with that of the process that started this one.
    return int(re.search(r"VmHWM:\\s+(\\d+) kB", Path("/proc/self/status").read_text())[1]) // 1024

async def main(kind, location, folder, options):
    source = open_source(kind, location, folder=Path(folder), options=options, clock=lambda: 2**60, token="any")
    before, characters = None, 0
    async for page in source.fetch(""):
        before = before or peak()
        characters += sum(len(entry.read().text) for entry in page.entries)
        assert not page.problems, page.problems
    print(characters, before, peak())

asyncio.run(main(*sys.argv[1:4], eval(sys.argv[4])))
"""


def require_bounded(
    kind: str, location: str, folder: Path, characters: int, documents: int = 0, **options: Any
) -> None:
    """Read at least so many characters in another process, and check its memory at first and at most.

    The cursor may know so many `documents`.
    """
    command = [sys.executable, "-c", READ, kind, location, str(folder), repr(options)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=3_000, check=True)
    found, before, peak = map(int, done.stdout.split())
    assert found > characters
    assert peak - before < (LITTLE + documents * DOCUMENT if characters < LONG else MOST)
    assert peak < MOST_WHOLE


def slack_channel(pages: int, folder: Path) -> None:
    """Read a channel of so many pages, with a thread in each and some pages a day."""
    workspace = SlackWorkspace()
    workspace.add_channel("C1", "ops")
    start = workspace.now - pages * DAY // 4
    for page in range(pages):
        for number in range(MESSAGES_A_PAGE):
            ts = f"{start + page * DAY // 4 + number * 60}.{number:06d}"
            workspace.post("C1", f"{page}:{number} " + "word " * 1_600, ts=ts)
        workspace.post("C1", "an answer", thread=ts, ts=f"{start + page * DAY // 4 + 2_000}.000000")
    workspace.now += DAY
    characters = pages * MESSAGES_A_PAGE * 8_000
    with running_thread(SlackSimulator(workspace), dated=False) as url:
        require_bounded("slack", f"{url}/api", folder, characters, page=MESSAGES_A_PAGE)


def discord_channel(pages: int, folder: Path) -> None:
    """Read a channel of so many pages of 100 messages, one page a day."""
    discord = Discord()
    ops = discord.add_channel("ops")
    start = int(discord.now) - pages * DAY
    for number in range(100 * pages):
        discord.post(ops, f"{number} " + "word " * 390, message=str(first_id(start + number * DAY // 100)))
    discord.advance(DAY)
    with running_thread(discord, dated=False) as url:
        require_bounded("discord", f"{url}/channels/{discord.server}", folder, pages * 190_000)


def gitlab_project(pages: int, folder: Path) -> None:
    """Read a project of so many pages of 20 issues."""
    gitlab, words = GitLab(largest_page=20), 100_000 // pages
    for number in range(20 * pages):
        gitlab.post("issues", f"Issue {number}", f"{number} " + "word " * words)
    with running_thread(gitlab, dated=False) as url:
        require_bounded("gitlab", f"{url}/web/app", folder, 20 * pages * words * 5, 20 * pages)


def backlog_project(pages: int, folder: Path) -> None:
    """Read a project of so many pages, which overlap, of 100 issues."""
    backlog = Backlog()
    project, words = backlog.add_project("OPS"), 20_000 // pages
    for number in range(90 * pages):
        backlog.post(project, f"Issue {number}", f"{number} " + "word " * words)
        backlog.advance(1)
    with running_thread(backlog, dated=False) as url:
        require_bounded("backlog", url, folder, 90 * pages * words * 5, 90 * pages)


def slack_export(megabytes: int, folder: Path) -> None:
    """Read an export with one channel, some of it replies to one thread."""
    (folder / "general").mkdir(parents=True)
    (folder / "channels.json").write_text('[{"id": "C1", "name": "general"}]')
    (folder / "users.json").write_text("[]")
    for day in range(megabytes):
        some = [
            {
                "type": "message",
                "user": "U1",
                "ts": f"{BEGIN + day * DAY + number * 30}.000100",
                "text": "word " * 200,
                **(
                    {"thread_ts": f"{BEGIN}.000100"}
                    if number % 3 == 0 and day < max(1, megabytes // 20)
                    else {}
                ),
            }
            for number in range(970)
        ]
        (folder / "general" / f"{day_of(BEGIN + day * DAY)}.json").write_text(json.dumps(some))
    require_bounded("slack", str(folder), folder, megabytes * 900_000)


def discord_export(megabytes: int, folder: Path) -> None:
    """Read an export of one file with one channel."""
    said = {"type": "Default", "author": {"id": "7", "name": "ann", "isBot": False}, "content": "word " * 200}
    with (folder / "ops.json").open("w") as file:
        file.write('{"guild": {"id": "5", "name": "Acme"}, "channel": {"id": "11", "type": "GuildTextChat",')
        file.write('"name": "ops"}, "dateRange": {"after": null, "before": null}, "messages": [')
        for number in range(970 * megabytes):
            message = {"id": str(first_id(BEGIN + number * 90)), **said}
            file.write(f"{',' * bool(number)}{json.dumps(message)}")
        file.write("]}")
    require_bounded("discord", "ops.json", folder, megabytes * 900_000)


def dump(kind: str, record: dict[str, Any], number: str) -> Callable[[int, Path], None]:
    """Return what reads a dump that is one list of records."""

    def read(megabytes: int, folder: Path) -> None:
        with (folder / "dump.json").open("w") as file:
            for each in range(1, 1 + 200 * megabytes):
                whole = {**record, number: each, "description": f"{each} " + "word " * 1_000}
                file.write(f"{'[' if each == 1 else ','}{json.dumps(whole)}")
            file.write("]")
        require_bounded(kind, "dump.json", folder, megabytes * 900_000)

    return read


OVER_APIS = {
    "slack": slack_channel,
    "discord": discord_channel,
    "gitlab": gitlab_project,
    "backlog": backlog_project,
}
# The comments of each issue of Backlog are a call.
PAGES = {"slack": (40, 1_000), "discord": (20, 1_000), "gitlab": (20, 1_000), "backlog": (5, 100)}
FILES = {
    "slack": slack_export,
    "discord": discord_export,
    "gitlab": dump("gitlab", {"project_id": 7, "title": "t"}, "iid"),
    "backlog": dump("backlog", {"projectId": 7, "summary": "t"}, "keyId"),
}


@pytest.mark.parametrize("kind", OVER_APIS)
def test_some_pages_of_a_source_are_read_in_bounded_memory(kind: str, tmp_path: Path) -> None:
    OVER_APIS[kind](PAGES[kind][0], tmp_path)


@pytest.mark.parametrize("kind", FILES)
def test_files_of_10_megabytes_are_read_in_bounded_memory(kind: str, tmp_path: Path) -> None:
    FILES[kind](10, tmp_path)


@pytest.mark.long
@pytest.mark.parametrize("kind", OVER_APIS)
def test_many_pages_of_a_source_are_read_in_bounded_memory(kind: str, tmp_path: Path) -> None:
    OVER_APIS[kind](PAGES[kind][1], tmp_path)


@pytest.mark.long
@pytest.mark.parametrize("kind", FILES)
def test_files_of_300_megabytes_are_read_in_bounded_memory(kind: str, tmp_path: Path) -> None:
    FILES[kind](300, tmp_path)
