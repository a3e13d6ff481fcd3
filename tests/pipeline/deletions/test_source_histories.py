"""Histories of chats and trackers, from the API to the index, through the real wiring.

After each undisturbed run nothing that was deleted is in the index, and only what was touched is embedded. In the end
the index is that of another project which reads the same for the first time.
"""

from __future__ import annotations

import contextlib
import random
import re
import time
from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import pytest
from tests.support.projects import Project

from flowbed.errors import Error
from flowbed.telemetry import FETCH_SWAPPED, listen
from flowbed.testing.simulators import running
from flowbed.testing.simulators.sources.backlog import Backlog
from flowbed.testing.simulators.sources.discord import Discord, DiscordFault
from flowbed.testing.simulators.sources.gitlab import GitLab
from flowbed.testing.simulators.sources.slack import SlackFault, SlackSimulator, SlackWorkspace

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.support.counting import CountingProcess

HOUR = 3_600
ROUNDS = 7
TOKEN = re.compile(r"said\d+")


class CrashError(Exception):
    """The end of a process, between two pages."""


@dataclass
class Teller(ABC):
    """Someone who changes what a simulated API has; each text has a token of its own."""

    random: random.Random
    told: int = 0
    alive: set[str] = field(default_factory=set)
    kind: str = ""
    path: str = ""
    options: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Let there be something to read."""
        self.prepare()

    @abstractmethod
    def prepare(self) -> None: ...

    def text(self) -> str:
        self.told += 1
        token = f"said{self.told}"
        self.alive.add(token)
        return f"{token} and some more words"

    def gone(self, text: str) -> None:
        self.alive -= set(TOKEN.findall(text))

    @property
    @abstractmethod
    def app(self) -> Any: ...  # an ASGI application

    @abstractmethod
    def change(self) -> int:
        """Change something; return how many chunks that touches at most."""

    @abstractmethod
    def pass_time(self, hours: float) -> None: ...

    @abstractmethod
    def disturb(self) -> bool:
        """Order a fault for the next run; return whether it may leave something unread."""

    @abstractmethod
    def calm(self) -> None: ...


class Talkers(Teller):
    """People in two channels, with hours between most messages."""

    def prepare(self) -> None:
        self.kind, self.path, self.options = "slack", "/api", {"lookback": 30, "page": 7}
        self.workspace = SlackWorkspace()
        self.simulator = SlackSimulator(self.workspace)
        for channel in ("C1", "C2"):
            self.workspace.add_channel(channel, channel.lower())
            for _ in range(12):
                self.workspace.post(channel, self.text())
                self.pass_time(3)

    @property
    def app(self) -> SlackSimulator:
        return self.simulator

    def change(self) -> int:
        channel = self.random.choice(["C1", "C2"])
        messages = self.workspace.channels[channel].messages
        alive = [ts for ts, each in messages.items() if not each.get("hidden")]
        target = self.random.choice(alive) if alive else ""
        parents = [ts for ts in alive if "thread_ts" not in messages[ts]]
        match self.random.choice(["post", "reply", "reply", "edit", "delete", "delete"]):
            case "reply" if parents:
                # The first reply moves its message from a day to a thread.
                self.workspace.post(channel, self.text(), thread=self.random.choice(parents))
                touched = 4
            # An edited reply changes nothing else, and may be found a day later.
            case "edit" if target and "thread_ts" not in messages[target]:
                self.gone(messages[target]["text"])
                self.workspace.edit(channel, target, self.text())
                touched = 2
            case "delete" if target:
                self.gone(messages[target]["text"])
                self.workspace.delete(channel, target)
                touched = 4
            case _:
                self.workspace.post(channel, self.text())
                touched = 2
        self.pass_time(3)
        return touched

    def pass_time(self, hours: float) -> None:
        self.workspace.now += int(hours * HOUR)

    def disturb(self) -> bool:
        channel = self.random.choice(["C1", "C2"])
        match self.random.choice(["storm", "refuse", "lose", "archive", "expire", "outage"]):
            case "storm":
                self.simulator.faults = [SlackFault(kind="ratelimited", times=5, retry_after=0)]
                return False
            case "refuse":
                self.simulator.faults = [
                    SlackFault(kind="error", channel=channel, code="ekm_access_denied", times=2)
                ]
            case "lose":
                self.workspace.channels[channel].member = False
            case "archive":
                self.workspace.channels[channel].archived = True
                return False
            case "expire":
                self.simulator.faults = [SlackFault(kind="expired_cursor", times=2)]
                return False
            case "outage":
                self.simulator.faults = [
                    SlackFault(kind="error", code="invalid_auth", channel=channel, times=1)
                ]
        return True

    def calm(self) -> None:
        self.simulator.faults = []
        for channel in self.workspace.channels.values():
            channel.member = True


class Team(Teller):
    """People who work on the issues of a project."""

    def prepare(self) -> None:
        self.kind, self.path, self.options = "gitlab", "/web/app", {"sweep_hours": 1}
        self.gitlab = GitLab(largest_page=4)
        for number in range(8):
            self.gitlab.post("issues" if number % 4 else "merge_requests", self.text(), self.text())
            self.pass_time(1)

    @property
    def app(self) -> GitLab:
        return self.gitlab

    def change(self) -> int:
        gitlab = self.gitlab
        some = [(kind, iid) for kind, rows in gitlab.rows.items() for iid in rows]
        kind, iid = self.random.choice(some) if some else ("", 0)
        notes = [note for note in gitlab.notes.get((kind, iid), ()) if not note["system"]]
        note = self.random.choice(notes) if notes else None
        match self.random.choice(
            ["post", "note", "note", "note", "edit", "delete", "edit_note", "delete_note", "wiki"]
        ):
            case "note" if some:
                # Short notes that follow each other are one chunk, which may be cut elsewhere.
                gitlab.note(kind, iid, self.text())
                touched = 2
            case "edit" if some:
                self.gone(gitlab.rows[kind][iid]["description"])
                gitlab.edit(kind, iid, description=self.text())
                touched = 1
            case "delete" if some:
                row = gitlab.rows[kind][iid]
                self.gone(" ".join([row["title"], row["description"], *(each["body"] for each in notes)]))
                gitlab.delete(kind, iid)
                touched = 0
            case "edit_note" if note:
                self.gone(note["body"])
                gitlab.edit_note(kind, iid, note["id"], self.text())
                touched = 2
            case "delete_note" if note:
                self.gone(note["body"])
                gitlab.delete_note(kind, iid, note["id"])
                touched = 2
            case "wiki":
                self.gone(gitlab.pages["home"]["content"] if "home" in gitlab.pages else "")
                gitlab.write_wiki("home", self.text())
                touched = 1
            case _:
                gitlab.post("issues", self.text(), self.text())
                touched = 1
        self.pass_time(0.1)
        return touched

    def pass_time(self, hours: float) -> None:
        self.gitlab.advance(hours * HOUR)

    def disturb(self) -> bool:
        match self.random.choice(["storm", "lose", "forbid", "cut"]):
            case "storm":
                self.gitlab.storm, self.gitlab.patience = 3, 0
                return False
            case "lose":
                self.gitlab.visible = False
            case "forbid":
                self.gitlab.forbidden = {self.random.choice(["issues", "merge_requests"])}
            case "cut":
                self.gitlab.forbidden = {"wikis"}
        return True

    def calm(self) -> None:
        self.gitlab.storm, self.gitlab.visible, self.gitlab.forbidden = 0, True, set()


class Members(Teller):
    """Members of a server, with hours between most messages, some of them in threads."""

    def prepare(self) -> None:
        self.kind, self.options = "discord", {"lookback": 30}
        self.discord = Discord()
        self.path = f"/channels/{self.discord.server}"
        self.places = [self.discord.add_channel(name) for name in ("ops", "dev")]
        for place in self.places[:2]:
            for number in range(8):
                message = self.discord.post(place, self.text())
                if number % 4 == 0:
                    self.places.append(self.discord.start_thread(place, f"thread {number}", message=message))
                self.pass_time(3)

    @property
    def app(self) -> Discord:
        return self.discord

    def change(self) -> int:
        discord, place = self.discord, self.random.choice(self.places)
        channel = discord.channels[place]
        own = [each for each in channel.messages.values() if each["content"]]
        message = self.random.choice(own) if own else None
        match self.random.choice(["post", "post", "edit", "delete", "delete", "archive"]):
            # An edit in a thread moves nothing, and may be found a day later.
            case "edit" if message and not channel.parent:
                self.gone(message["content"])
                discord.edit(place, message["id"], self.text())
                touched = 4
            case "delete" if message:
                self.gone(message["content"])
                discord.delete(place, message["id"])
                touched = 6
            case "archive" if channel.parent:
                discord.archive(place)
                touched = 0
            case _:
                discord.post(place, self.text())
                touched = 2
        self.pass_time(3)
        return touched

    def pass_time(self, hours: float) -> None:
        self.discord.advance(hours * HOUR)

    def disturb(self) -> bool:
        channel = self.random.choice(self.places)
        match self.random.choice(["storm", "refuse", "lose", "hide"]):
            case "storm":
                self.discord.faults = [DiscordFault(kind="ratelimited", times=5, retry_after=0)]
                return False
            case "refuse":
                self.discord.faults = [
                    DiscordFault(kind="error", path=f"/channels/{channel}/messages", times=2)
                ]
            case "lose":
                self.discord.lose(channel)
            case "hide":
                self.discord.hide(channel)
        return True

    def calm(self) -> None:
        self.discord.faults = []
        for place in self.places:
            self.discord.regain(place)


class Workers(Teller):
    """People who work on the issues of two projects."""

    def prepare(self) -> None:
        self.kind = "backlog"
        self.backlog = Backlog()
        self.projects = [self.backlog.add_project("OPS"), self.backlog.add_project("WEB", "backlog")]
        for number in range(8):
            self.backlog.post(self.projects[number % 2], self.text(), self.text())
            self.pass_time(1)

    @property
    def app(self) -> Backlog:
        return self.backlog

    def change(self) -> int:
        backlog, project = self.backlog, self.random.choice(self.projects)
        found = backlog.projects[project]
        number = self.random.choice(list(found.issues)) if found.issues else 0
        row = found.issues.get(number, {})
        page = next(iter(found.documents), "")
        wiki = next(iter(found.wikis), 0)
        match self.random.choice(
            ["post", "comment", "comment", "edit", "delete", "wiki", "document", "unwiki", "trash"]
        ):
            case "comment" if row:
                backlog.comment(project, number, self.text())
                touched = 2
            case "edit" if row:
                self.gone(row["description"])
                backlog.edit(project, number, description=self.text())
                touched = 1
            case "delete" if row:
                said = [each["content"] or "" for each in found.comments[row["id"]]]
                self.gone(" ".join([row["summary"], row["description"], *said]))
                backlog.delete(project, number)
                touched = 0
            case "wiki":
                self.gone(found.wikis[wiki]["content"] if wiki else "")
                backlog.write_wiki(project, "Home", self.text(), wiki)
                touched = 1
            case "unwiki" if wiki:
                self.gone(found.wikis[wiki]["content"])
                backlog.delete_wiki(project, wiki)
                touched = 0
            case "document" if not page:
                backlog.write_document(project, "Manual", self.text())
                touched = 1
            case "trash" if page and page not in found.trash:
                self.gone(found.documents[page]["plain"])
                backlog.trash_document(project, page)
                touched = 0
            case _:
                backlog.post(project, self.text(), self.text())
                touched = 1
        self.pass_time(0.1)
        return touched

    def pass_time(self, hours: float) -> None:
        self.backlog.advance(hours * HOUR)

    def disturb(self) -> bool:
        match self.random.choice(["hide", "withdraw"]):
            case "hide":
                self.backlog.hide(self.random.choice(self.projects))
            case "withdraw":
                self.backlog.documents = False
        return True

    def calm(self) -> None:
        self.backlog.documents = True
        for project in self.projects:
            self.backlog.show(project)


@dataclass
class Clock:
    """The clock of the project, ahead of the real one by what has passed in the simulator."""

    ahead: int = 0

    def now(self) -> int:
        return time.time_ns() // 1_000 + self.ahead

    def advance(self, hours: float) -> None:
        self.ahead += int(hours * HOUR * 1e6)


@dataclass
class Follower:
    """A project that follows a simulated API, and what it may still have to notice."""

    project: Project
    teller: Teller
    url: str
    clock: Clock
    owed: int = 0
    cut: bool = False

    async def start(self) -> None:
        async with await self.project.open() as bed:
            location = f"{self.url}{self.teller.path}"
            await bed.add("source", kind=self.teller.kind, location=location, options=self.teller.options)
            await bed.run()
        self.project.sent()

    async def run(self, *, disturbed: bool, crash: int | None = None) -> None:
        """Run once; a process that crashes loses what it has not swapped."""
        left = crash

        def end(point: str, _facts: dict[str, Any]) -> None:
            nonlocal left
            if left is not None and point == FETCH_SWAPPED:
                left -= 1
                if left < 0:
                    raise CrashError

        stop = listen(end)
        report = None
        try:
            with contextlib.suppress(CrashError, Error):
                async with await self.project.open() as bed:
                    report = await bed.run(allow_deletes=True)
        finally:
            stop()
        if disturbed or report is None or report.failed:
            self.cut = True
            return
        if self.cut:
            # It went on where the one before was cut off: what that had listed is listed again by the next.
            self.cut = False
            await self.run(disturbed=False)
            return
        sent = sum(self.project.sent().values())
        assert sent <= self.owed, f"{sent} texts were embedded, where {self.owed} chunks were touched"
        self.owed = 0
        assert self.tokens() == self.teller.alive

    def tokens(self) -> set[str]:
        rows = self.project.contents().rows.get("source", {}).values()
        return {token for row in rows for token in TOKEN.findall(f"{row.document} {row.metadata}")}


async def live(
    teller: Teller, folder: Path, provider: CountingProcess, clock: Clock, restart: Callable[[Path], Project]
) -> None:
    """Change things and follow them; then compare with a project that reads all of it for the first time."""
    async with running(teller.app, dated=False) as url:
        follower = Follower(Project(folder / "one", provider), teller, url, clock)
        await follower.start()
        assert follower.tokens() == teller.alive
        for _ in range(ROUNDS):
            for _ in range(teller.random.randint(1, 4)):
                follower.owed += teller.change()
            disturbed = teller.disturb() if teller.random.random() < 0.4 else False
            crash = teller.random.choice([None, None, 0, 1])
            teller.pass_time(2)
            clock.advance(2)
            await follower.run(disturbed=disturbed, crash=crash)
            teller.calm()
        for _ in range(2):
            teller.pass_time(25)
            clock.advance(25)
            await follower.run(disturbed=False)
        assert follower.tokens() == teller.alive
        second = restart(folder / "two")
        fresh = Follower(second, teller, url, clock)
        await fresh.start()
        assert _rows(follower.project) == _rows(second)


def _rows(project: Project) -> dict[str, tuple[str, Any]]:
    rows = project.contents().rows.get("source", {})
    return {key: (row.document, row.metadata) for key, row in rows.items()}


TELLERS: dict[str, Callable[[random.Random], Teller]] = {
    "slack": Talkers,
    "gitlab": Team,
    "discord": Members,
    "backlog": Workers,
}


async def _lived(
    kind: str, seed: int, folder: Path, provider: CountingProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SLACK_TOKEN", "xoxb-any")
    monkeypatch.setenv("GITLAB_TOKEN", "glpat-any")
    monkeypatch.setenv("DISCORD_TOKEN", "any")
    monkeypatch.setenv("BACKLOG_API_KEY", "any")
    clock = Clock()
    monkeypatch.setattr("flowbed.wiring.process.now", clock.now)
    teller = TELLERS[kind](random.Random(seed))
    await live(teller, folder, provider, clock, lambda place: Project(place, provider))


# In the second one of Slack, a thread loses its only reply before a fetch that reads threads first.
@pytest.mark.parametrize(("kind", "seed"), [*((kind, 1) for kind in TELLERS), ("slack", 104)])
async def test_history_of_a_source_ends_in_the_index_of_a_first_run(
    kind: str, seed: int, tmp_path: Path, provider: CountingProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    await _lived(kind, seed, tmp_path, provider, monkeypatch)


@pytest.mark.long
@pytest.mark.parametrize("kind", TELLERS)
async def test_many_histories_of_a_source_end_in_the_index_of_a_first_run(
    kind: str, tmp_path: Path, provider: CountingProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    for seed in range(100, 140):
        folder = tmp_path / str(seed)
        folder.mkdir()
        with monkeypatch.context() as patched:
            await _lived(kind, seed, folder, provider, patched)
