"""Every source with addresses fulfils the contract of links: over APIs, and of exports and dumps."""

from __future__ import annotations

import json
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

from tests.sources.test_contract import later

from flowbed.sources import open_source
from flowbed.testing.linking import LinkingContract
from flowbed.testing.simulators import running
from flowbed.testing.simulators.sources.backlog import Backlog
from flowbed.testing.simulators.sources.discord import FORUM, Discord
from flowbed.testing.simulators.sources.gitlab import GitLab, GitLabGroup
from flowbed.testing.simulators.sources.slack import SlackSimulator, SlackWorkspace

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from flowbed.sources import Source

HOUR = 3_600


def opened(kind: str, location: str, folder: Path, token: str = "any", **options: Any) -> Source:  # noqa: S107 - any will do
    return open_source(kind, location, folder=folder, options=options, clock=later, token=token)


def workspace() -> SlackWorkspace:
    found = SlackWorkspace()
    found.add_channel("C1", "ops")
    found.post("C1", "nobody answers")
    thread = found.post("C1", "why?")
    found.post("C1", "because", thread=thread)
    found.post("C1", "everyone should know", thread=thread, broadcast=True)
    found.now += HOUR
    return found


class TestSlack(LinkingContract):
    missing = (
        "{site}/archives/C1/p1500000000000100",
        "{site}/archives/C9/p1500000000000100?thread_ts=1400000000.000100",
        "{site}/archives/C1",
    )

    @asynccontextmanager
    async def opened(self, folder: Path) -> AsyncIterator[Source]:
        async with running(SlackSimulator(workspace()), dated=False) as url:
            yield opened("slack", f"{url}/api", folder)


class TestSlackExport(TestSlack):
    @asynccontextmanager
    async def opened(self, folder: Path) -> AsyncIterator[Source]:
        channel = folder / "export" / "ops"
        channel.mkdir(parents=True)
        (folder / "export" / "channels.json").write_text('[{"id": "C1", "name": "ops"}]')
        (channel / "2026-01-05.json").write_text(
            json.dumps(list(workspace().channels["C1"].messages.values()))
        )
        yield opened("slack", "export", folder, url="https://acme.slack.com")


class TestDiscord(LinkingContract):
    missing = (
        "{site}/channels/900000000000000001/11/1",
        "{site}/channels/900000000000000001/99/900000000000000009",
        "{site}/channels/900000000000000001/11",
    )

    @asynccontextmanager
    async def opened(self, folder: Path) -> AsyncIterator[Source]:
        discord = Discord()
        ops = discord.add_channel("ops", channel="11")
        begun = discord.post(ops, "why?")
        discord.start_thread(ops, "why", message=begun)
        discord.post(begun, "because")
        discord.start_thread(discord.add_channel("help", kind=FORUM), "how", "like this")
        discord.advance(HOUR)
        async with running(discord, dated=False) as url:
            yield opened("discord", f"{url}/channels/{discord.server}", folder)


class TestDiscordExport(LinkingContract):
    missing = ("{site}/channels/5/11/1", "{site}/channels/5/11")

    @asynccontextmanager
    async def opened(self, folder: Path) -> AsyncIterator[Source]:
        said = {"type": "Default", "content": "words", "author": {"id": "7", "name": "ann", "isBot": False}}
        channel = {"id": "11", "type": "GuildTextChat", "name": "ops"}
        thread = {"id": "900000000000000001", "type": "GuildPublicThread", "categoryId": "11", "name": "why"}
        for name, place, message in (
            ("ops", channel, "900000000000000001"),
            ("why", thread, "900000000000000002"),
        ):
            export = {
                "guild": {"id": "5", "name": "Acme"},
                "channel": place,
                "messages": [{"id": message, **said}],
            }
            (folder / f"{name}.json").write_text(json.dumps(export))
        yield opened("discord", "*.json", folder)


def fill(gitlab: GitLab) -> None:
    gitlab.note("issues", gitlab.post("issues", "One", "text"), "an answer")
    gitlab.post("merge_requests", "Fix", "text")
    gitlab.write_wiki("dir/home", "# Hello")


class TestGitLab(LinkingContract):
    missing = (
        "{site}/web/app/-/issues/99",
        "{site}/web/app/-/work_items/1#note_99",
        "{site}/web/app/merge_requests/7",
        "{site}/web/app/-/wikis/none",
    )

    @asynccontextmanager
    async def opened(self, folder: Path) -> AsyncIterator[Source]:
        gitlab = GitLab()
        async with running(gitlab, dated=False) as gitlab.url:
            fill(gitlab)
            yield opened("gitlab", f"{gitlab.url}/web/app", folder, "")


class TestGitLabGroup(LinkingContract):
    missing = (
        "{site}/acme/one/-/issues/99",
        "{site}/acme/none/-/issues/1#note_1",
        "{site}/acme/two/-/wikis/none",
    )

    @asynccontextmanager
    async def opened(self, folder: Path) -> AsyncIterator[Source]:
        projects = [
            GitLab(path=f"acme/{name}", number=number) for number, name in enumerate(("one", "two"), 1)
        ]
        async with running(GitLabGroup("acme", projects)) as url:
            for each in projects:
                each.url = url
                fill(each)
            yield opened("gitlab", url, folder, group="acme")


class TestGitLabDump(LinkingContract):
    missing = (
        "{site}/below/web/app/-/issues/99",
        "{site}/below/web/app/-/work_items/1#note_99",
        "{site}/below/web/app/merge_requests/7",
        "{site}/below/web/other/-/wikis/none",
    )

    @asynccontextmanager
    async def opened(self, folder: Path) -> AsyncIterator[Source]:
        gitlab = GitLab(url="https://git.example/below")
        fill(gitlab)
        (folder / "dump.json").write_text(json.dumps(gitlab.dump()))
        yield opened("gitlab", "dump.json", folder, "")


class TestBacklog(LinkingContract):
    missing = (
        "{site}/view/OPS-99",
        "{site}/view/OPS-1#comment-9999",
        "{site}/view/WEB-1",
        "{site}/alias/wiki/9999",
        "{site}/document/OPS/0123abcd",
    )

    @asynccontextmanager
    async def opened(self, folder: Path) -> AsyncIterator[Source]:
        backlog = self.backlog()
        async with running(backlog, dated=False) as url:
            yield opened("backlog", url, folder)

    def backlog(self) -> Backlog:
        backlog = Backlog()
        project = backlog.add_project("OPS")
        backlog.comment(project, backlog.post(project, "One", "text"), "an answer")
        backlog.write_wiki(project, "Home", "text")
        backlog.comment_document(project, backlog.write_document(project, "Manual", "text"), "what is this?")
        return backlog


class TestBacklogDump(TestBacklog):
    @asynccontextmanager
    async def opened(self, folder: Path) -> AsyncIterator[Source]:
        (folder / "dump.json").write_text(json.dumps(self.backlog().dump()))
        yield opened("backlog", "dump.json", folder, url="https://acme.backlog.com")
