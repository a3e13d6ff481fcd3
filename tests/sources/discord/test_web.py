"""A server over Discord's API: what changed, what is gone, limits and faults."""

from __future__ import annotations

import json
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from tests.sources.discord.test_export import talk

from flowbed.errors import Misconfigured, Transient
from flowbed.sources import open_source
from flowbed.sources.discord.messages import Place, first_id, from_api, has_text, read_document
from flowbed.sources.discord.positions import Position, documents, read, written
from flowbed.sources.discord.text import Names
from flowbed.sources.discord.web import Web
from flowbed.telemetry import RETRIED, listen
from flowbed.testing.simulators import running
from flowbed.testing.simulators.sources.discord import FORUM, Discord, DiscordFault
from flowbed.testing.sources import entries, pages, still_there

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from flowbed.records import Page

DAY, HOUR = 86_400, 3_600
TOKEN = "very-secret"  # noqa: S105 - a token of the simulator


@dataclass
class Reader:
    """A source over a simulator, and an index of what it listed, kept as a run keeps it."""

    discord: Discord
    source: Web
    cursor: str = ""
    documents: dict[str, list[str]] = field(default_factory=dict)
    etags: dict[str, str] = field(default_factory=dict)
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
        self.etags |= {each.document: each.etag for each in page.entries}
        for name in page.gone:
            self.documents.pop(name, None)
        self.cursor = page.cursor


def lines(text: str) -> list[str]:
    return [f"{each.author}: {each.text}" for each in talk(text)]


def problems(fetched: list[Page]) -> list[str]:
    return [f"{each.subject}: {each.reason}" for page in fetched for each in page.problems]


@asynccontextmanager
async def reading(
    discord: Discord, *, token: str = TOKEN, raw: Path | None = None, **options: Any
) -> AsyncIterator[Reader]:
    """Serve a server, and read it; a wait of the source moves its clock."""
    discord.token = TOKEN
    async with running(discord, dated=False) as url:
        location = f"{url}/channels/{discord.server}"
        source = open_source(
            "discord", location, folder=Path(), options=options, clock=lambda: 0, token=token
        )
        assert isinstance(source, Web)
        reader = Reader(discord, source)

        async def sleep(seconds: float) -> None:
            reader.slept.append(seconds)
            discord.now += seconds

        reader.source = replace(source, sleep=sleep, monotonic=lambda: discord.now, raw=raw)
        yield reader


def server_of(days: int = 1) -> tuple[Discord, str]:
    """Return a server of one channel, with one message on each of the last days."""
    discord = Discord()
    ops = discord.add_channel("ops")
    for day in reversed(range(days)):
        discord.post(ops, f"day {day}", message=str(first_id(int(discord.now) - day * DAY)))
    discord.advance(HOUR)
    return discord, ops


async def test_first_fetch_lists_days_threads_and_posts_of_forums() -> None:
    discord, ops = server_of()
    begun = discord.post(ops, "Why?")
    discord.start_thread(ops, "why", message=begun)
    discord.post(begun, "Because.", author="2")
    forum = discord.add_channel("help", kind=FORUM)
    old = discord.start_thread(forum, "How to restore?", "Which command?")
    discord.post(old, "restore.sh", author="2", answers=old)
    discord.archive(old)
    private = discord.start_thread(ops, "secret plans", "hush", private=True)
    discord.archive(private)
    discord.advance(HOUR)
    async with reading(discord) as reader:
        fetched = await reader.fetch()
    assert problems(fetched) == []
    assert fetched[-1].complete
    assert reader.documents == {
        f"{ops}/d/2026-01-05": ["Ann: day 0", "Ann: Why?"],
        f"{ops}/t/{begun}": ["Ann: Why?", "Bob: Because."],
        f"{ops}/t/{private}": ["Ann: hush"],
        f"{forum}/t/{old}": ["Ann: Which command?", "Bob: restore.sh"],
    }
    made = {each.document: each.read() for each in entries(fetched)}
    post = made[f"{forum}/t/{old}"]
    assert post.title == "How to restore?"
    assert talk(post.text)[1].quote == "Ann: Which command?"
    assert talk(post.text)[0].url == f"https://discord.com/channels/{discord.server}/{old}/{old}"
    urls = [each.url for each in talk(made[f"{ops}/t/{begun}"].text)]
    assert urls[0] == f"https://discord.com/channels/{discord.server}/{ops}/{begun}"
    assert urls[1].startswith(f"https://discord.com/channels/{discord.server}/{begun}/")


async def test_edits_and_deletions_within_the_look_back_are_found() -> None:
    discord, ops = server_of(3)
    async with reading(discord) as reader:
        await reader.fetch()
        oldest, middle, newest = sorted(discord.channels[ops].messages)
        discord.edit(ops, str(newest), "edited")
        discord.delete(ops, str(middle))
        discord.advance(HOUR)
        fetched = await reader.fetch()
    assert reader.documents == {f"{ops}/d/2026-01-05": ["Ann: edited"], f"{ops}/d/2026-01-03": ["Ann: day 2"]}
    assert [each for page in fetched for each in page.gone] == [f"{ops}/d/2026-01-04"]
    assert oldest


async def test_page_whose_cursor_was_not_saved_is_known_when_it_is_deleted() -> None:
    """A process may end after the documents of a page were stored, and before its cursor was."""
    discord, ops = server_of(2)
    async with reading(discord) as reader:
        await reader.fetch()
        discord.delete(ops, str(min(discord.channels[ops].messages)))
        discord.advance(DAY)
        new = discord.post(ops, "a new day")
        discord.advance(HOUR)
        saved = reader.cursor
        async for page in reader.source.fetch(reader.cursor):
            reader.apply(page)
            if any("2026-01-06" in each.document for each in page.entries):
                break
            saved = page.cursor
        assert f"{ops}/d/2026-01-06" in reader.documents
        reader.cursor = saved
        discord.delete(ops, new)
        await reader.fetch()
    assert set(reader.documents) == {f"{ops}/d/2026-01-05"}


async def test_threads_are_read_again_when_they_moved_and_only_then() -> None:
    discord, ops = server_of()
    threads = [discord.start_thread(ops, f"thread {n}", f"question {n}") for n in range(4)]
    discord.advance(HOUR)
    async with reading(discord) as reader:
        await reader.fetch()
        first = discord.post(threads[0], "late reply", author="2")
        discord.delete(threads[1], max(map(str, discord.channels[threads[1]].messages)))
        discord.advance(HOUR)
        discord.calls.clear()
        await reader.fetch()
        assert reader.documents[f"{ops}/t/{threads[0]}"] == ["Ann: question 0", "Bob: late reply"]
        assert f"{ops}/t/{threads[1]}" not in reader.documents
        asked = {each.split("/")[2] for each in discord.calls if "/messages" in each}
        assert asked == {ops, threads[0], threads[1]}
        # An edit moves nothing, and is found within a day.
        discord.edit(threads[0], first, "edited reply")
        discord.advance(DAY + HOUR)
        await reader.fetch()
    assert reader.documents[f"{ops}/t/{threads[0]}"] == ["Ann: question 0", "Bob: edited reply"]


async def test_deleted_and_archived_threads_are_told_apart() -> None:
    """An archived thread stays; one that no listing has is gone only if Discord does not know it."""
    discord, ops = server_of()
    kept, lost, hidden = (discord.start_thread(ops, f"thread {n}", f"question {n}") for n in range(3))
    discord.advance(HOUR)
    async with reading(discord) as reader:
        await reader.fetch()
        discord.archive(kept)
        discord.delete_thread(lost)
        discord.hide(hidden)
        discord.advance(DAY + HOUR)
        fetched = await reader.fetch()
        assert [each for page in fetched for each in page.gone] == [f"{ops}/t/{lost}"]
        assert set(reader.documents) == {f"{ops}/d/2026-01-05", f"{ops}/t/{kept}", f"{ops}/t/{hidden}"}
        (told,) = problems(fetched)
        assert told.startswith(f"https://discord.com/channels/{discord.server}/{hidden}/: Discord answers")
        # Of an archived thread, messages can only be deleted.
        discord.delete(kept, max(map(str, discord.channels[kept].messages)))
        discord.advance(DAY + HOUR)
        await reader.fetch()
    assert f"{ops}/t/{kept}" not in reader.documents


async def test_message_that_a_thread_was_begun_on_changes_it_too() -> None:
    discord, ops = server_of()
    begun = discord.post(ops, "teh question")
    discord.start_thread(ops, "question", message=begun)
    discord.post(begun, "an answer", author="2")
    discord.advance(HOUR)
    async with reading(discord) as reader:
        await reader.fetch()
        discord.edit(ops, begun, "the question")
        discord.advance(HOUR)
        await reader.fetch()
        assert reader.documents[f"{ops}/t/{begun}"] == ["Ann: the question", "Bob: an answer"]
        discord.delete(ops, begun)
        discord.advance(HOUR)
        await reader.fetch()
    assert reader.documents[f"{ops}/t/{begun}"] == ["Bob: an answer"]


async def test_changes_beyond_the_look_back_are_found_by_the_sweep() -> None:
    discord, ops = server_of(260)
    async with reading(discord) as reader:
        await reader.fetch()
        ids = sorted(discord.channels[ops].messages)
        discord.edit(ops, str(ids[200]), "edited long after")
        discord.delete(ops, str(ids[100]))
        discord.delete(ops, str(ids[0]))
        discord.advance(HOUR)
        for _ in range(4):
            await reader.fetch()
        fresh = Reader(discord, reader.source)
        await fresh.fetch()
    assert reader.documents == fresh.documents
    assert len(reader.documents) == 258


async def test_many_archived_threads_of_one_moment_are_all_listed() -> None:
    discord, ops = server_of()
    threads = [discord.start_thread(ops, f"thread {n}", f"question {n}") for n in range(230)]
    for number, each in enumerate(threads):
        discord.now += number % 60 == 0
        discord.archive(each)
    discord.advance(HOUR)
    async with reading(discord) as reader:
        fetched = await reader.fetch()
    assert len(reader.documents) == 231
    assert fetched[-1].complete


async def test_empty_listing_without_the_permission_deletes_nothing() -> None:
    """Without Read Message History, Discord answers with an empty list."""
    discord, ops = server_of(3)
    discord.add_channel("dev")
    async with reading(discord) as reader:
        await reader.fetch()
        before = dict(reader.documents)
        discord.lose(ops)
        fetched = await reader.fetch()
        assert reader.documents == before
        assert not fetched[-1].complete
        (told,) = problems(fetched)
        assert told.startswith(
            "#ops: the bot lacks the permission Read Message History; what is indexed of it is kept"
        )
        discord.regain(ops)
        for id_ in list(discord.channels[ops].messages):
            discord.delete(ops, str(id_))
        await reader.fetch()
    assert reader.documents == {}


async def test_hidden_channel_is_named_and_kept_and_another_read() -> None:
    discord, ops = server_of(2)
    dev = discord.add_channel("dev")
    discord.post(dev, "hello")
    discord.advance(HOUR)
    async with reading(discord) as reader:
        await reader.fetch()
        discord.hide(ops)
        discord.post(dev, "goes on")
        discord.advance(HOUR)
        fetched = await reader.fetch()
        assert reader.documents[f"{dev}/d/2026-01-05"] == ["Ann: hello", "Ann: goes on"]
        assert f"{ops}/d/2026-01-05" in reader.documents
        (told,) = problems(fetched)
        assert told.startswith("#ops: is not shown to the bot any more")


async def test_refused_channel_is_asked_once_and_the_others_are_read() -> None:
    discord, ops = server_of()
    dev = discord.add_channel("dev")
    discord.post(dev, "hello")
    discord.advance(HOUR)
    async with reading(discord) as reader:
        discord.faults = [DiscordFault(kind="error", path=f"/channels/{ops}/", times=99)]
        fetched = await reader.fetch()
        assert set(reader.documents) == {f"{dev}/d/2026-01-05"}
        assert "#ops: Discord answers /channels/" in problems(fetched)[0]
        assert sum(f"/channels/{ops}/" in each for each in discord.calls) == 1
        assert (fetched[-1].complete, fetched[-1].within) == (True, (f"{dev}/",))
        discord.faults = []
        await reader.fetch()
    assert len(reader.documents) == 2


async def test_limits_of_each_channel_are_obeyed_without_being_refused() -> None:
    """Headers say when a channel may be listed again; no call is refused, and nobody waits longer than that."""
    discord, _ = server_of(1)
    discord.limit = 2
    for name in ("dev", "web"):
        channel = discord.add_channel(name)
        for number in range(350):
            discord.post(channel, f"n{number}")
    discord.advance(HOUR)
    async with reading(discord) as reader:
        await reader.fetch()
    assert sum(map(len, reader.documents.values())) == 701
    assert discord.statuses[429] == 0
    assert reader.slept
    assert max(reader.slept) <= 5


async def test_storms_and_failures_are_waited_for() -> None:
    discord, _ = server_of(2)
    async with reading(discord) as reader:
        discord.faults = [
            DiscordFault(kind="ratelimited", path="/messages", times=3, retry_after=1.336),
            DiscordFault(kind="global", path="/channels", retry_after=7),
            DiscordFault(kind="shared", path="/messages", retry_after=2),
            DiscordFault(kind="gateway", path="/messages"),
            DiscordFault(kind="cut", path="/messages"),
        ]
        fetched = await reader.fetch()
    assert len(reader.documents) == 2
    assert problems(fetched) == []
    assert sorted(reader.slept) == pytest.approx([1.0, 1.336, 1.336, 1.336, 2, 2.0, 7])


async def test_channel_that_fails_stops_no_other_and_an_outage_ends_the_fetch() -> None:
    discord, ops = server_of(2)
    dev = discord.add_channel("dev")
    discord.post(dev, "hello")
    discord.advance(HOUR)
    async with reading(discord) as reader:
        discord.faults = [DiscordFault(kind="gateway", path=f"/channels/{ops}/messages", times=99)]
        fetched = await reader.fetch()
        assert set(reader.documents) == {f"{dev}/d/2026-01-05"}
        assert "#ops: discord at 127.0.0.1" in problems(fetched)[0]
        discord.faults = [DiscordFault(kind="gateway", times=99)]
        with pytest.raises(Transient, match=r"status 502.*; what was read before is kept"):
            await reader.fetch()
        discord.faults = []
        await reader.fetch()
    assert len(reader.documents) == 3


async def test_without_message_content_nothing_is_read() -> None:
    discord, _ = server_of(3)
    async with reading(discord) as reader:
        await reader.fetch()
        before = dict(reader.documents)
        discord.content = False
        with pytest.raises(Misconfigured, match="turn on Message Content Intent under Bot"):
            await reader.fetch()
        # Discord may not say so either: then the messages show it.
        discord.faults = [DiscordFault(kind="error", path="/applications", times=9)]
        for number in range(60):
            discord.post(discord.add_channel(f"c{number}"), "hello")
        discord.advance(HOUR)
        with pytest.raises(Misconfigured, match="turn on Message Content Intent under Bot"):
            await Reader(discord, reader.source).fetch()
    assert reader.documents == before


@pytest.mark.parametrize(
    ("token", "message"),
    [
        ("", "no token for Discord: set DISCORD_TOKEN"),
        ("another", "refuses the token: set DISCORD_TOKEN"),
        ("two words", "DISCORD_TOKEN has a character that no token has"),
    ],
)
async def test_wrong_token_says_what_to_set_and_is_asked_once(token: str, message: str) -> None:
    discord, _ = server_of()
    async with reading(discord, token=token) as reader:
        with pytest.raises(Misconfigured, match=message) as raised:
            await reader.fetch()
    assert not token or token not in str(raised.value).replace("another one", "")
    assert len(discord.calls) <= 1


async def test_token_stands_in_no_page_call_or_file(tmp_path: Path) -> None:
    discord, _ = server_of(3)
    async with reading(discord, raw=tmp_path / "raw.db") as reader:
        fetched = await reader.fetch()
        assert TOKEN not in repr(fetched) + repr(reader.source) + reader.cursor + str(discord.calls)
    assert TOKEN.encode() not in (tmp_path / "raw.db").read_bytes()


async def test_reset_cursor_lists_everything_again_without_calling(tmp_path: Path) -> None:
    """From the beginning, only what may have changed is asked for; documents and etags are those of before."""
    discord, ops = server_of(300)
    threads = [discord.start_thread(ops, f"thread {n}", f"question {n}") for n in range(5)]
    discord.advance(HOUR)
    async with reading(discord, raw=tmp_path / "raw.db") as reader:
        await reader.fetch()
        discord.post(threads[0], "late")
        discord.advance(HOUR)
        discord.calls.clear()
        again = Reader(discord, reader.source)
        fetched = await again.fetch()
        listings = [each for each in discord.calls if "/messages" in each]
        fresh = Reader(discord, replace(reader.source, raw=None))
        await fresh.fetch()
    assert fetched[-1].complete
    assert again.documents == fresh.documents
    assert again.etags == fresh.etags
    # The look-back, a slice of old days, and the thread that moved (twice: an empty page is the last one).
    assert len(listings) <= 5


async def test_chosen_channels_only_are_read() -> None:
    discord, ops = server_of()
    dev = discord.add_channel("dev")
    discord.post(dev, "hello")
    discord.advance(HOUR)
    async with reading(discord, channels="dev") as reader:
        await reader.fetch()
        assert list(reader.documents) == [f"{dev}/d/2026-01-05"]
    async with reading(discord, channels="opps") as reader:
        with pytest.raises(
            Misconfigured, match=r"channel 'opps' does not exist in this server.*did you mean ops"
        ):
            await reader.fetch()
    assert ops


async def test_look_says_what_can_be_read() -> None:
    discord, _ = server_of()
    discord.post(discord.add_channel("dev"), "hello")
    discord.lose(discord.post(secret := discord.add_channel("secret"), "x") and secret)
    discord.hide(discord.add_channel("hidden"))
    async with reading(discord) as reader:
        reads, refused = await reader.source.look()
    assert reads == "Discord server Acme: reads #ops, #dev"
    assert refused.startswith("does not read #secret: give the bot Read Message History there")


async def test_server_without_messages_says_why() -> None:
    discord, ops = server_of(0)
    assert ops
    async with reading(discord) as reader:
        (page,) = await reader.fetch()
    assert page.empty == "there are no messages that are older than a minute in #ops, nor in threads of them"


async def test_server_without_channels_says_why() -> None:
    async with reading(Discord()) as reader:
        fetched = await reader.fetch()
    assert "channels: the bot sees no channel with messages" in problems(fetched)[0]


@pytest.mark.parametrize("location", ["discord://acme", "https://discord.com/guilds/5", "discord://"])
def test_location_without_a_server_says_what_to_give(location: str) -> None:
    with pytest.raises(Misconfigured, match="discord://SERVER with the id of a server"):
        open_source("discord", location, folder=Path(), options={}, clock=lambda: 0, token="x")  # noqa: S106


async def test_link_finds_messages_and_says_why_others_are_missing() -> None:
    discord, ops = server_of(3)
    thread = discord.start_thread(ops, "why", "question")
    discord.advance(HOUR)
    async with reading(discord) as reader:
        fetched = await reader.fetch()
        for entry in entries(fetched):
            for each in talk(entry.read().text):
                found = reader.source.linked(each.url, reader.cursor)
                assert found is not None
                assert (entry.document in found.documents, found.item) == (True, each.id)

        def why(path: str) -> str:
            found = reader.source.linked(f"https://discord.com/channels/{path}", reader.cursor)
            return found.absent if found else "none"

        late = first_id(int(discord.now) + 60)
        assert "the next `flowbed run` lists it" in why(f"{discord.server}/{ops}/{late}")
        assert "it was deleted, has no text" in why(
            f"{discord.server}/{ops}/{first_id(int(discord.now) - DAY)}"
        )
        assert "it was deleted" in why(f"{discord.server}/{thread}/{first_id(int(discord.now) - DAY)}")
        assert "was never read" in why(f"{discord.server}/17/{late}")
        assert "names channel" in why(f"{discord.server}/{ops}")
        assert why(f"17/{ops}/{late}") == "none"


def real(data: Path) -> tuple[Discord, dict[str, Any]]:
    """Return a server with the messages of a real export: every tenth begins a thread, every seventh is a reply."""
    export = json.loads((data / "discord.json").read_text("utf-8"))
    discord = Discord()
    discord.server, channel = export["guild"]["id"], export["channel"]["id"]
    discord.now = 1_600_000_000
    discord.add_channel("general", channel=channel)
    before, place = "", channel
    for number, each in enumerate(export["messages"][:1_300]):
        author = each["author"]
        discord.members[author["id"]] = author["nickname"]
        answers = before if number % 7 == 6 else ""
        discord.post(place, each["content"], author=author["id"], message=each["id"], answers=answers)
        before = each["id"]
        if number % 10 == 9 and place == channel:
            discord.start_thread(channel, f"about {number}", message=each["id"])
            place, before = each["id"], ""
        elif number % 10 == 4:
            place, before = channel, ""
    return discord, export


def exported(discord: Discord, head: dict[str, Any], folder: Path) -> None:
    """Write the exports of a server as DiscordChatExporter does."""
    folder.mkdir()
    types = {0: "Default", 19: "Reply", 21: "21"}
    for place in discord.channels.values():
        channel = {**head["channel"], "id": place.id, "name": place.name}
        if place.parent:
            parent = discord.channels[place.parent]
            channel |= {"type": "GuildPublicThread", "categoryId": parent.id, "category": parent.name}
        messages = []
        for each in place.messages.values():
            author, reference = each["author"], each.get("message_reference")
            one = {name: each[name] for name in ("id", "content")}
            one |= {
                "type": types[each["type"]],
                "author": {"id": author["id"], "nickname": author["global_name"]},
            }
            if reference:
                one["reference"] = {"messageId": reference["message_id"]}
            messages.append(one)
        whole = {"guild": head["guild"], "channel": channel, "dateRange": {}, "messages": messages}
        (folder / f"{place.id}.json").write_text(json.dumps(whole, indent=2))


async def test_export_and_api_give_the_same_documents(data: Path, tmp_path: Path) -> None:
    """Real messages give the same documents, texts and etags, whichever way they come."""
    discord, head = real(data)
    exported(discord, head, tmp_path / "export")
    export = open_source("discord", "export", folder=tmp_path, options={}, clock=lambda: 0)
    async with reading(discord) as reader:
        over_api = {each.document: each.read() for each in entries(await reader.fetch())}
    from_export = {each.document: each.read() for each in entries(await pages(export))}
    assert len(over_api) > 150
    assert over_api == from_export


def test_samples_of_discord_parse(data: Path) -> None:
    folder = data / "api-samples" / "discord"
    samples = [json.loads(each.read_text("utf-8")) for each in sorted(folder.glob("message-*.json"))]
    samples += json.loads((folder / "invented.messages.json").read_text("utf-8"))
    place = Place(guild="5", channel="11", label="#ops")
    kept = sorted((from_api(each) for each in samples), key=lambda each: int(each["id"]))
    names = Names(channels={"1280000000000000009": "runbooks"})
    found = talk(read_document(place, "d/x", [each for each in kept if has_text(each)], names).text)
    texts = "\n".join(each.text for each in found)
    assert "How do I **restore** a backup? @ben see #runbooks :ok:".replace("@ben", "@Ben") in texts
    assert "Release 2.1\nRestores are **resumable**\nsize: 12 MB\nci\n[file: notes.txt]" in texts
    assert "[forwarded] forwarded words" in texts
    assert "restore questions" not in texts
    assert "ex=695c" not in texts
    assert [each.quote[:22] for each in found if each.quote] == ["Ada: How do I **restor"]


def test_positions_survive_being_written() -> None:
    position = Position(
        filled=5, listed=7, swept=None, whole=True, archived=9, threads_listed=8, days={20_000, 20_003}
    )
    position.threads = {"17": (1, 2, 3)}
    many = {
        str(n): replace(position, threads={f"{n}00{m}": (m, 3, 4) for m in range(400)}) for n in range(99)
    }
    assert read(written({"1": position})) == {"1": position}
    assert read(written(many)) == many
    assert read("plan:1") == read("") == read("zz") == {}
    assert documents({"1": position}) == {"1/d/2024-10-04", "1/d/2024-10-07", "1/t/17"}


async def test_wait_for_a_limit_says_how_much_is_left() -> None:
    """While the past of a channel is read, the calls that are left follow from those before; threads are counted."""
    discord = Discord(limit=5)
    start = int(discord.now) - 100 * DAY
    ops = discord.add_channel("ops", channel=str(first_id(start)))
    for hour in range(24 * 100):
        discord.post(ops, "words", message=str(first_id(start + hour * HOUR)))
    threads = [discord.start_thread(ops, f"thread {number}", "question") for number in range(20)]
    discord.advance(HOUR)
    told: list[tuple[int, int]] = []

    def note(point: str, facts: dict[str, Any]) -> None:
        if point == RETRIED and "left" in facts["reason"]:
            assert facts["reason"].startswith("Discord limits /channels/{}/messages; about ")
            assert facts["reason"].endswith("1 minute")
            told.append((int(facts["reason"].split()[4]), len(discord.calls)))

    async with reading(discord) as reader:
        stop = listen(note)
        try:
            fetched = await reader.fetch()
        finally:
            stop()
        calls = len(discord.calls)
    assert len(entries(fetched)) == 101 + len(threads)
    assert len(told) > 3
    assert all(abs(left - (calls - made)) <= 5 for left, made in told), (calls, told)
