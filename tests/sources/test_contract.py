"""The sources that read files fulfil the contract."""

from __future__ import annotations

import json
import time
import zlib
from datetime import UTC, date, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest

from flowbed.errors import Misconfigured
from flowbed.sources import Local, open_source
from flowbed.sources.backlog import open_backlog
from flowbed.sources.discord.messages import first_id
from flowbed.sources.gitlab import open_gitlab
from flowbed.sources.slack.messages import day_of
from flowbed.testing.clock import FixedClock
from flowbed.testing.simulators import running_thread
from flowbed.testing.simulators.sources.backlog import Backlog
from flowbed.testing.simulators.sources.discord import Discord
from flowbed.testing.simulators.sources.gitlab import GitLab
from flowbed.testing.simulators.sources.slack import SlackSimulator, SlackWorkspace
from flowbed.testing.sources import MANY, SourceContract

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from flowbed.sources import Source


def later() -> int:
    """Return a time so late that what was just written counts as old."""
    return time.time_ns() // 1_000 + 60_000_000


class TestFiles(SourceContract):
    def open_source(self, folder: Path) -> Source:
        return open_source("files", folder.name, folder=folder.parent, options={}, clock=later)

    def write(self, folder: Path, name: str, text: str) -> str:
        inner = folder / "inner"
        inner.mkdir(exist_ok=True)
        (inner / f"{name}.txt").write_text(text)
        return f"inner/{name}.txt"

    def remove(self, folder: Path, name: str) -> None:
        (folder / "inner" / f"{name}.txt").unlink()


class LinesContract(SourceContract):
    kind: str

    def record(self, name: str, text: str) -> tuple[str, dict[str, Any]]:
        raise NotImplementedError

    def open_source(self, folder: Path) -> Source:
        return open_source(self.kind, "source/data.jsonl", folder=folder.parent, options={}, clock=later)

    def empty(self, folder: Path) -> None:
        folder.mkdir()
        (folder / "data.jsonl").touch()

    def write(self, folder: Path, name: str, text: str) -> str:
        file = folder / "data.jsonl"
        document, record = self.record(name, text)
        with file.open("a") as lines:
            if f'"{name}"' in file.read_text():
                self.remove(folder, name)
            lines.write(json.dumps({**record, "name": name}) + "\n")
        return document

    def remove(self, folder: Path, name: str) -> None:
        file = folder / "data.jsonl"
        kept = [line for line in file.read_text().splitlines(keepends=True) if f'"{name}"' not in line]
        file.write_text("".join(kept))


class TestJsonl(LinesContract):
    kind = "jsonl"

    def record(self, name: str, text: str) -> tuple[str, dict[str, Any]]:
        return name, {"id": name, "text": text}


class TestReceipts(LinesContract):
    kind = "receipts"

    def record(self, name: str, text: str) -> tuple[str, dict[str, Any]]:
        lines = [{"line_id": 1, "text": text, "words": []}]
        return f"IMAGE#{name}#RECEIPT#00001", {"image_id": name, "receipt_id": 1, "lines": lines}


class TestSlackExport(SourceContract):
    def open_source(self, folder: Path) -> Source:
        return open_source("slack", folder.name, folder=folder.parent, options={}, clock=later)

    def empty(self, folder: Path) -> None:
        (folder / "ops").mkdir(parents=True)
        (folder / "channels.json").write_text('[{"id": "C1", "name": "ops"}]')

    def write(self, folder: Path, name: str, text: str) -> str:
        """Write a day with one message."""
        day = self.day(name)
        seconds = int(datetime(day.year, day.month, day.day, 12, tzinfo=UTC).timestamp())
        message = {"type": "message", "user": "U1", "ts": f"{seconds}.000100", "text": text}
        (folder / "ops" / f"{day}.json").write_text(json.dumps([message]))
        return f"C1/d/{day}"

    def remove(self, folder: Path, name: str) -> None:
        (folder / "ops" / f"{self.day(name)}.json").unlink()

    def day(self, name: str) -> date:
        names = ("one", "two", "three", "four")
        number = names.index(name) + MANY if name in names else int(name[1:])
        return date(2020, 1, 1) + timedelta(days=number)


class TestDiscordExport(SourceContract):
    """Files of one channel, each with the message of a day."""

    def open_source(self, folder: Path) -> Source:
        return open_source("discord", folder.name, folder=folder.parent, options={}, clock=later)

    def write(self, folder: Path, name: str, text: str) -> str:
        day = datetime(2020, 1, 1, 12, tzinfo=UTC) + timedelta(days=number_of(name))
        message = {
            "id": str(first_id(int(day.timestamp()))),
            "type": "Default",
            "content": text,
            "author": {"id": "7", "name": "ann"},
        }
        channel = {"id": "11", "type": "GuildTextChat", "name": "ops"}
        export = {"guild": {"id": "5"}, "channel": channel, "dateRange": {}, "messages": [message]}
        (folder / f"{name}.json").write_text(json.dumps(export))
        return f"11/d/{day.date()}"

    def remove(self, folder: Path, name: str) -> None:
        (folder / f"{name}.json").unlink()


def number_of(name: str) -> int:
    """Return a number for each name of the contract."""
    names = ("one", "two", "three", "four")
    return names.index(name) + MANY if name in names else int(name[1:])


class TestGitLabDumps(LinesContract):
    kind = "gitlab"

    def record(self, name: str, text: str) -> tuple[str, dict[str, Any]]:
        iid = 1 + zlib.crc32(name.encode())
        return f"7#{iid}", {"iid": iid, "project_id": 7, "title": "t", "description": text}


class TestGitLab(SourceContract):
    """The issues of a simulated GitLab, whose clock passes a sweep between two fetches."""

    @pytest.fixture(autouse=True)
    def serve(self) -> Iterator[None]:
        self.gitlab = GitLab("web/app")
        self.iids: dict[str, int] = {}
        self.clock = FixedClock()
        with running_thread(self.gitlab) as self.url:
            yield

    def open_source(self, folder: Path) -> Source:
        path = "web/app" if folder.name == "source" else "no/where"
        return open_gitlab(f"{self.url}/{path}", folder=folder, options={}, clock=self.next_day)

    def next_day(self) -> int:
        return self.clock.advance(seconds=90_000)

    def write(self, folder: Path, name: str, text: str) -> str:
        if name in self.iids:
            self.gitlab.edit("issues", self.iids[name], description=text)
        else:
            self.iids[name] = self.gitlab.post("issues", name, text)
        return f"7#{self.iids[name]}"

    def remove(self, folder: Path, name: str) -> None:
        self.gitlab.delete("issues", self.iids[name])


class TestSlackWeb(SourceContract):
    """Over the API of a simulated workspace with a message a day; `folder` only tells that it exists."""

    @pytest.fixture(autouse=True)
    def simulated(self) -> Iterator[None]:
        self.workspace = SlackWorkspace(now=1_767_600_000)
        self.workspace.add_channel("C1", "source")
        with running_thread(SlackSimulator(self.workspace), dated=False) as self.url:
            yield

    def open_source(self, folder: Path) -> Source:
        options = {"channels": folder.name, "lookback": 4_000}
        location = f"{self.url}/api"
        return open_source("slack", location, folder=folder, options=options, clock=later, token="xoxb-1")  # noqa: S106

    def write(self, folder: Path, name: str, text: str) -> str:
        ts = self.ts(name)
        if ts in self.workspace.channels["C1"].messages:
            self.workspace.edit("C1", ts, text)
        else:
            self.workspace.post("C1", text, ts=ts)
        return f"C1/d/{day_of(int(ts[:10]))}"

    def remove(self, folder: Path, name: str) -> None:
        self.workspace.delete("C1", self.ts(name))

    def ts(self, name: str) -> str:
        names = ("one", "two", "three", "four")
        number = names.index(name) + MANY if name in names else int(name[1:])
        return f"{1_577_880_000 + number * 86_400}.000100"


class TestDiscordWeb(SourceContract):
    """Over the API of a simulated server with a message a day; `folder` only tells that it exists."""

    @pytest.fixture(autouse=True)
    def simulated(self) -> Iterator[None]:
        self.discord = Discord()
        self.discord.add_channel("source", channel="11")
        with running_thread(self.discord, dated=False) as self.url:
            yield

    def open_source(self, folder: Path) -> Source:
        server = self.discord.server if folder.name == "source" else "17"
        location = f"{self.url}/channels/{server}"
        # Each test has a folder, so that no answers of another one are kept in it.
        return open_source(
            "discord",
            location,
            folder=folder.parent,
            options={"lookback": 4_000},
            clock=later,
            token="any",  # noqa: S106 - any will do
        )

    def write(self, folder: Path, name: str, text: str) -> str:
        day = 1_577_880_000 + number_of(name) * 86_400
        message = str(first_id(day))
        if int(message) in self.discord.channels["11"].messages:
            self.discord.edit("11", message, text)
        else:
            self.discord.post("11", text, message=message)
        return f"11/d/{day_of(day)}"

    def remove(self, folder: Path, name: str) -> None:
        self.discord.delete("11", str(first_id(1_577_880_000 + number_of(name) * 86_400)))


class TestBacklogDumps(LinesContract):
    kind = "backlog"

    def record(self, name: str, text: str) -> tuple[str, dict[str, Any]]:
        number = 1 + zlib.crc32(name.encode())
        return f"7#{number}", {"keyId": number, "projectId": 7, "summary": "t", "description": text}


class TestBacklog(SourceContract):
    """The issues of a simulated space."""

    @pytest.fixture(autouse=True)
    def serve(self) -> Iterator[None]:
        self.backlog = Backlog()
        self.project = self.backlog.add_project("OPS")
        self.numbers: dict[str, int] = {}
        self.opened = 0
        with running_thread(self.backlog, dated=False) as self.url:
            yield

    def open_source(self, folder: Path) -> Source:
        # There is no space at any other path.
        location = self.url if folder.name == "source" else f"{self.url}/projects/NOWHERE"
        # Of each source by itself: what was kept for another one would be listed in its order.
        self.opened += 1
        own = folder / f".{self.opened}"
        return open_backlog(location, folder=own, options={}, clock=later, token="any")  # noqa: S106

    def write(self, folder: Path, name: str, text: str) -> str:
        self.backlog.advance(1)
        if name in self.numbers:
            self.backlog.edit(self.project, self.numbers[name], description=text)
        else:
            self.numbers[name] = self.backlog.post(self.project, name, text)
        return f"{self.project}#{self.numbers[name]}"

    def remove(self, folder: Path, name: str) -> None:
        self.backlog.delete(self.project, self.numbers[name])


# It is only the base class of those above.
del LinesContract


@pytest.mark.parametrize("kind", ["backlog", "discord", "files", "gitlab", "jsonl", "receipts", "slack"])
def test_local_source_whose_place_is_missing_says_so_before_a_fetch(kind: str, tmp_path: Path) -> None:
    opened = open_source(kind, "gone.json", folder=tmp_path, options={}, clock=later)
    assert isinstance(opened, Local)
    with pytest.raises(Misconfigured, match=r"gone\.json does not exist"):
        opened.require_place()
