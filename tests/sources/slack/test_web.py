"""A workspace over the Web API: what changed, what is gone, limits and faults."""

from __future__ import annotations

import json
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from flowbed.errors import Misconfigured, Transient
from flowbed.records.conversations import Conversation
from flowbed.sources import open_source
from flowbed.sources.slack.messages import day_of
from flowbed.sources.slack.positions import Position, read, written
from flowbed.sources.slack.web import Web
from flowbed.testing.simulators import running
from flowbed.testing.simulators.sources.slack import SlackFault, SlackSimulator, SlackWorkspace
from flowbed.testing.sources import entries, fetch_killed, pages, still_there

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from flowbed.records import Page

DAY = 86_400
TOKEN = "xoxb-secret"  # noqa: S105 - a token of the simulator


@dataclass
class Reader:
    """A source over a simulator, and an index of what it listed, kept as a run keeps it."""

    simulator: SlackSimulator
    source: Web
    cursor: str = ""
    documents: dict[str, list[str]] = field(default_factory=dict)
    slept: list[float] = field(default_factory=list)

    async def fetch(self) -> list[Page]:
        """Fetch from where the last fetch ended, and apply it."""
        fetched = []
        async for page in self.source.fetch(self.cursor):
            fetched.append(page)
            self.apply(page)
        there = still_there(self.documents, fetched)
        self.documents = {name: text for name, text in self.documents.items() if name in there}
        return fetched

    def apply(self, page: Page) -> None:
        self.documents |= {each.document: lines(each.read().text) for each in page.entries}
        for name in page.gone:
            self.documents.pop(name, None)
        self.cursor = page.cursor

    def calls(self, method: str) -> int:
        return sum(each == method for each, _ in self.simulator.calls)


def lines(text: str) -> list[str]:
    return [f"{each.author}: {each.text}" for each in Conversation.from_json(text).messages]


def problems(fetched: list[Page]) -> list[str]:
    return [f"{each.subject}: {each.reason}" for page in fetched for each in page.problems]


@asynccontextmanager
async def reading(
    workspace: SlackWorkspace,
    *,
    token: str = TOKEN,
    slow: bool = False,
    scopes: tuple[str, ...] = (),
    raw: Path | None = None,
    **options: Any,
) -> AsyncIterator[Reader]:
    """Serve a workspace, and read it; a wait of the source moves the clock of the workspace."""
    simulator = SlackSimulator(workspace, token=TOKEN, slow=slow, scopes=scopes)
    async with running(simulator, dated=False) as url:
        source = open_source(
            "slack", f"{url}/api", folder=Path(), options=options, clock=lambda: 0, token=token
        )
        assert isinstance(source, Web)
        reader = Reader(simulator, source)

        async def sleep(seconds: float) -> None:
            reader.slept.append(seconds)
            workspace.now += max(1, int(seconds))

        reader.source = replace(source, sleep=sleep, monotonic=lambda: workspace.now, raw=raw)
        yield reader


def workspace_of(days: int = 1) -> SlackWorkspace:
    """Return a workspace of one channel, with one message on each of the last days."""
    workspace = SlackWorkspace()
    workspace.add_channel("C1", "ops")
    start = workspace.now
    for day in range(days):
        workspace.post("C1", f"day {day}", ts=f"{start - day * DAY}.000000")
    workspace.now += 3_600
    return workspace


async def test_first_fetch_lists_threads_and_days_with_their_links() -> None:
    workspace = workspace_of()
    thread = workspace.post("C1", "why?")
    workspace.post("C1", "because", user="U2", thread=thread)
    workspace.post("C1", "to all", user="U2", thread=thread, broadcast=True)
    workspace.now += 3_600
    async with reading(workspace) as reader:
        fetched = await reader.fetch()
    assert fetched[-1].complete
    assert reader.documents == {
        "C1/d/2026-01-05": ["Ann: day 0"],
        f"C1/t/{thread}": ["Ann: why?", "Bob: because", "Bob: to all"],
    }
    urls = [
        each.url
        for entry in entries(fetched)
        for each in Conversation.from_json(entry.read().text).messages
        if each.text == "because"
    ]
    assert urls == [f"https://acme.slack.com/archives/C1/p{urls[0].partition('/p')[2]}"]
    assert f"?thread_ts={thread}&cid=C1" in urls[0]


async def test_edits_deletions_and_replies_within_the_look_back_are_found() -> None:
    workspace = workspace_of(3)
    async with reading(workspace) as reader:
        await reader.fetch()
        history = [each["ts"] for each in workspace.history("C1")]
        workspace.edit("C1", history[0], "edited")
        workspace.delete("C1", history[1])
        workspace.post("C1", "late", thread=history[2], user="U2")
        workspace.now += 3_600
        fetched = await reader.fetch()
        assert reader.documents == {
            "C1/d/2026-01-05": ["Ann: edited"],
            f"C1/t/{history[2]}": ["Ann: day 2", "Bob: late"],
        }
        assert sorted(each for page in fetched for each in page.gone) == [
            "C1/d/2026-01-03",
            "C1/d/2026-01-04",
        ]
        workspace.delete("C1", workspace.replies_to("C1", history[2])[0]["ts"])
        workspace.now += 3_600
        await reader.fetch()
    assert reader.documents == {"C1/d/2026-01-05": ["Ann: edited"], "C1/d/2026-01-03": ["Ann: day 2"]}


async def test_nothing_new_costs_few_calls_and_lists_nothing_new() -> None:
    workspace = workspace_of(30)
    for ts in [each["ts"] for each in workspace.history("C1")][:20]:
        workspace.post("C1", "a reply", thread=ts, ts=f"{int(ts[:10]) + 60}.000001")
    async with reading(workspace) as reader:
        first = await reader.fetch()
        before = len(reader.simulator.calls)
        second = await reader.fetch()
    etags = {each.document: each.etag for each in entries(first)}
    assert {each.document: each.etag for each in entries(second)}.items() <= etags.items()
    assert not any(page.gone for page in second)
    # auth.test, two lists of channels, users, the look-back, and a slice of old days with their threads.
    assert len(reader.simulator.calls) - before <= 6 + 20


async def test_changes_beyond_the_look_back_are_found_by_the_sweep() -> None:
    """Late replies, edits and deletions of old messages are found after as many fetches as the sweep takes."""
    workspace = workspace_of(60)
    async with reading(workspace, page=10) as reader:
        await reader.fetch()
        history = [each["ts"] for each in workspace.history("C1")]
        workspace.edit("C1", history[20], "edited long after")
        workspace.delete("C1", history[40])
        workspace.delete("C1", history[59])
        workspace.post("C1", "very late", thread=history[50])
        workspace.now += 3_600
        for _ in range(8):
            await reader.fetch()
        fresh = Reader(reader.simulator, reader.source)
        await fresh.fetch()
    assert reader.documents == fresh.documents
    assert len(reader.documents) == 58


async def test_edited_reply_of_a_recent_thread_is_found_within_a_day() -> None:
    workspace = workspace_of()
    thread = workspace.history("C1")[0]["ts"]
    reply = workspace.post("C1", "teh answer", thread=thread)
    workspace.now += 3_600
    async with reading(workspace) as reader:
        await reader.fetch()
        workspace.edit("C1", reply, "the answer")
        workspace.now += DAY + 3_600
        await reader.fetch()
    assert reader.documents == {f"C1/t/{thread}": ["Ann: day 0", "Ann: the answer"]}


async def test_deleted_parent_keeps_the_thread_until_its_last_reply_goes() -> None:
    workspace = workspace_of()
    thread = workspace.history("C1")[0]["ts"]
    reply = workspace.post("C1", "answer", thread=thread)
    workspace.now += 3_600
    async with reading(workspace) as reader:
        await reader.fetch()
        workspace.delete("C1", thread)
        workspace.now += 3_600
        await reader.fetch()
        assert reader.documents == {f"C1/t/{thread}": ["Ann: answer"]}
        workspace.delete("C1", reply)
        workspace.now += 3_600
        await reader.fetch()
    assert reader.documents == {}


async def test_more_pages_than_one_and_a_cursor_that_expires_lose_nothing() -> None:
    workspace = workspace_of(1)
    start = workspace.now
    for number in range(95):
        workspace.post("C1", f"n{number}", ts=f"{start - number * 1_000}.{number:06d}")
    workspace.now += 3_600
    async with reading(workspace, page=10) as reader:
        reader.simulator.faults = [SlackFault(kind="expired_cursor", method="conversations.history", times=2)]
        await reader.fetch()
    assert sum(map(len, reader.documents.values())) == 96


async def test_limits_are_obeyed_and_failures_tried_again() -> None:
    workspace = workspace_of(3)
    async with reading(workspace) as reader:
        reader.simulator.faults = [
            SlackFault(kind="ratelimited", times=8, retry_after=17),
            SlackFault(kind="gateway", method="conversations.history"),
            SlackFault(kind="cut", method="conversations.history"),
            SlackFault(kind="error", method="users.list", code="internal_error"),
        ]
        await reader.fetch()
    assert len(reader.documents) == 3
    assert reader.slept == [17.0] * 8 + [1.0] * 2 + [2.0]


async def test_slow_mode_of_a_request_a_minute_reads_everything() -> None:
    workspace = workspace_of(40)
    async with reading(workspace, slow=True) as reader:
        await reader.fetch()
    assert len(reader.documents) == 40
    assert reader.calls("conversations.history") <= 2 * 4
    # One refusal teaches the limit, and no other call is made too early.
    assert reader.simulator.statuses[429] == 1


async def test_failure_that_lasts_ends_the_fetch_and_the_next_goes_on() -> None:
    workspace = workspace_of(40)
    async with reading(workspace, page=10) as reader:
        fetch = reader.source.fetch("")
        async for page in fetch:
            reader.apply(page)
            if page.entries:
                break
        reader.simulator.faults = [SlackFault(kind="gateway", times=99)]
        with pytest.raises(
            Transient, match="status 502; what was read before is kept, and the next run goes on"
        ):
            await anext(fetch)
        assert 0 < len(reader.documents) < 40
        reader.simulator.faults = []
        await reader.fetch()
    assert len(reader.documents) == 40


@pytest.mark.parametrize("kind", ["day", "thread", "old thread"])
@pytest.mark.parametrize("stored", [2, 3, 4])
async def test_document_stored_before_its_cursor_and_deleted_then_is_gone(kind: str, stored: int) -> None:
    """After a crash between the documents of a page and their cursor, those that Slack deletes are noticed."""
    workspace = workspace_of(0)
    start = workspace.now
    for day in range(8):
        ts = workspace.post("C1", f"day {day}", ts=f"{start - day * DAY}.000000")
        if kind != "day":
            reply = start - day * DAY + 60 if kind == "old thread" else start + 60
            workspace.post("C1", "answer", thread=ts, ts=f"{reply}.000001")
    workspace.now += 3_600
    async with reading(workspace, page=2, lookback=2) as reader:
        reader.cursor = await fetch_killed(reader.source, "", reader.apply, after=stored)
        for ts in sorted(workspace.channels["C1"].messages, reverse=True):
            workspace.delete("C1", ts)
        workspace.post("C1", "afterwards")
        for _ in range(10):
            workspace.now += 25 * 3_600
            await reader.fetch()
        fresh = Reader(reader.simulator, reader.source)
        await fresh.fetch()
        assert reader.documents == fresh.documents


async def test_refused_channel_and_poison_thread_do_not_stop_the_others() -> None:
    workspace = workspace_of(1)
    workspace.add_channel("C2", "dev")
    workspace.post("C2", "hello")
    bad = workspace.post("C2", "a thread")
    workspace.post("C2", "of poison", thread=bad)
    workspace.now += 3_600
    async with reading(workspace) as reader:
        reader.simulator.faults = [
            SlackFault(kind="error", method="conversations.history", channel="C1", code="ekm_access_denied"),
            SlackFault(kind="error", method="conversations.replies", channel="C2", code="surprising_error"),
        ]
        fetched = await reader.fetch()
        assert not fetched[-1].complete
        assert reader.documents == {"C2/d/2026-01-05": ["Ann: hello"]}
        channel, thread = problems(fetched)
        assert channel.startswith(
            "#ops: Slack answers conversations.history with ekm_access_denied; what is indexed"
        )
        assert thread.startswith("https://acme.slack.com/archives/C2/p")
        assert thread.endswith(": Slack answers conversations.replies with surprising_error")
        await reader.fetch()
    assert set(reader.documents) == {"C1/d/2026-01-05", "C2/d/2026-01-05", f"C2/t/{bad}"}


async def test_workspace_without_messages_says_why() -> None:
    async with reading(workspace_of(0)) as reader:
        (page,) = await reader.fetch()
    assert page.empty == "there are no messages that are older than a minute in #ops"


async def test_lost_access_keeps_what_is_indexed() -> None:
    workspace = workspace_of(2)
    async with reading(workspace) as reader:
        await reader.fetch()
        before = dict(reader.documents)
        workspace.channels["C1"].member = False
        fetched = await reader.fetch()
        assert reader.documents == before
        assert not fetched[-1].complete
        assert "channels: the app is in none of the channels, so nothing is read" in problems(fetched)[0]
        workspace.channels["C1"].member = True
        await reader.fetch()
    assert reader.documents == before


async def test_new_channel_gets_its_past() -> None:
    workspace = workspace_of(1)
    async with reading(workspace) as reader:
        await reader.fetch()
        workspace.add_channel("C2", "dev")
        workspace.post("C2", "long ago", ts="1500000000.000100")
        await reader.fetch()
    assert reader.documents["C2/d/2017-07-14"] == ["Ann: long ago"]


@pytest.mark.parametrize(
    ("token", "message"),
    [
        ("", "no token for Slack: set SLACK_TOKEN"),
        ("xoxb-other", "Slack refuses the token for auth.test: invalid_auth; set SLACK_TOKEN"),
        ("two words", "SLACK_TOKEN has a character that no token has"),
    ],
)
async def test_wrong_token_says_what_to_set_and_never_itself(token: str, message: str) -> None:
    async with reading(workspace_of(), token=token) as reader:
        with pytest.raises(Misconfigured, match=message) as raised:
            await reader.fetch()
    assert not token or token not in str(raised.value)
    assert reader.simulator.calls == [] or TOKEN not in str(reader.simulator.calls)


async def test_missing_scope_names_what_is_needed() -> None:
    async with reading(workspace_of(), scopes=("channels:read",)) as reader:
        with pytest.raises(Misconfigured, match="needed: channels:history; provided: channels:read"):
            await reader.fetch()
    async with reading(workspace_of(), scopes=("channels:read", "channels:history")) as reader:
        fetched = await reader.fetch()
    assert reader.documents == {"C1/d/2026-01-05": ["U1: day 0"]}
    assert [each.partition(":")[0] for each in problems(fetched)] == ["private channels", "users"]


async def test_token_stands_in_no_page() -> None:
    async with reading(workspace_of(3)) as reader:
        fetched = await reader.fetch()
        assert TOKEN not in repr(fetched)
        assert TOKEN not in repr(reader.source)
        assert TOKEN not in reader.cursor


def racket(export: Path) -> SlackWorkspace:
    """Return a workspace with the messages of a real export, which is older than threads: every tenth is a reply."""
    workspace = SlackWorkspace(now=1_560_000_000)
    people = json.loads((export / "users.json").read_text("utf-8"))
    workspace.users = {each["id"]: each["profile"]["display_name"] for each in people}
    workspace.add_channel("CYQHPLLKK", "general")
    before = ""
    files = sorted(export.glob("*/*.json"))
    messages = [each for path in files for each in json.loads(path.read_text("utf-8"))]
    for place, each in enumerate(messages):
        more = {name: value for name, value in each.items() if name != "type"}
        thread = before if place % 10 == 9 else ""
        before = workspace.post("CYQHPLLKK", thread=thread, broadcast=place % 20 == 9, **more)
    return workspace


def write_export(workspace: SlackWorkspace, source: Path, folder: Path) -> None:
    """Write the export of a workspace, with the lists of the export that its messages are from."""
    (folder / "general").mkdir(parents=True)
    for name in ("users.json", "channels.json"):
        (folder / name).write_bytes((source / name).read_bytes())
    by_day: dict[str, list[Any]] = {}
    for ts in workspace.channels["CYQHPLLKK"].messages:
        by_day.setdefault(day_of(int(ts[:10])), []).append(workspace.seen("CYQHPLLKK", ts))
    for day, some in by_day.items():
        (folder / "general" / f"{day}.json").write_text(json.dumps(some))


async def test_export_and_api_give_the_same_documents(data: Path, tmp_path: Path) -> None:
    """Real messages give the same documents and the same texts, whichever way they come."""
    workspace = racket(data / "slack-export-racket")
    write_export(workspace, data / "slack-export-racket", tmp_path / "export")
    exported = open_source(
        "slack", "export", folder=tmp_path, options={"url": workspace.url}, clock=lambda: 0
    )
    async with reading(workspace) as reader:
        over_api = {each.document: each.read() for each in entries(await reader.fetch())}
    from_export = {each.document: each.read() for each in entries(await pages(exported))}
    assert len(over_api) > 300
    assert over_api == from_export


def test_positions_survive_being_written() -> None:
    position = Position(
        filled=5,
        listed=7,
        swept=None,
        whole=True,
        days={20_000, 20_003},
        threads={"1.000000": ("2.000000", 3, 4, 5)},
    )
    many = {
        f"C{n}": replace(position, threads={f"{n}.{m:06d}": ("2.000000", 3, 4, 5) for m in range(40)})
        for n in range(99)
    }
    assert read(written({"C1": position})) == {"C1": position}
    assert read(written(many)) == many
    assert len(written(many)) < 50_000
    assert read("plan:1") == read("") == read("zz") == {}
