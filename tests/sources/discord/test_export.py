"""Exports of DiscordChatExporter: threads, parts, replies and forwards, and what is wrong with them."""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING, Any

import pytest

from flowbed.errors import Misconfigured
from flowbed.records.conversations import Conversation
from flowbed.sources import open_source
from flowbed.sources.discord.messages import first_id
from flowbed.testing.sources import entries, pages, still_there

if TYPE_CHECKING:
    from pathlib import Path

    from flowbed.records import Page
    from flowbed.sources import Source

MORNING = 1_767_600_000  # 5 January 2026, 8:00 UTC
DAY = 86_400


def later() -> int:
    return time.time_ns() // 1_000 + 60_000_000


def opened(folder: Path, location: str = "export", **options: Any) -> Source:
    return open_source("discord", location, folder=folder, options=options, clock=later)


def said(seconds: int, content: Any = "words", *, name: str = "Ann", **more: Any) -> dict[str, Any]:
    author = {"id": f"7{len(name)}", "name": name.lower(), "nickname": name, "isBot": False}
    return {"id": str(first_id(seconds)), "type": "Default", "content": content, "author": author, **more}


def channel(id_: str = "11", name: str = "ops", **more: Any) -> dict[str, Any]:
    return {"id": id_, "type": "GuildTextChat", "categoryId": "9", "category": "Team", "name": name, **more}


def thread(id_: str, name: str) -> dict[str, Any]:
    """Return a thread of the channel ops."""
    return {"id": id_, "type": "GuildPublicThread", "categoryId": "11", "category": "ops", "name": name}


def write(folder: Path, name: str, messages: list[Any] | str, **more: Any) -> None:
    """Write an export as DiscordChatExporter does; a string stands in place of its messages."""
    head = {
        "guild": {"id": "5", "name": "Acme", "iconUrl": ""},
        "channel": channel(),
        "dateRange": {"after": None, "before": None},
        "exportedAt": "2026-02-01T00:00:00+00:00",
        **more,
    }
    listed = messages if isinstance(messages, str) else json.dumps(messages, indent=2)
    (folder / "export").mkdir(exist_ok=True)
    (folder / "export" / f"{name}.json").write_text(
        f'{json.dumps(head, indent=2)[:-2]},\n  "messages": {listed},\n  "messageCount": 1\n}}\n'
    )


def read(fetched: list[Page]) -> dict[str, list[str]]:
    return {
        entry.document: [f"{each.author}: {each.text}" for each in talk(entry.read().text)]
        for entry in entries(fetched)
    }


def talk(text: str) -> tuple[Any, ...]:
    return Conversation.from_json(text).messages


def problems(fetched: list[Page]) -> list[str]:
    return [f"{each.subject}: {each.reason}" for page in fetched for each in page.problems]


async def test_messages_are_days_and_threads_with_links_to_each(tmp_path: Path) -> None:
    """A thread has its title, and begins with the message of the channel that it was begun on."""
    begun = said(MORNING, "How do I restore a backup?")
    write(tmp_path, "ops", [begun, said(MORNING + DAY, "next day", name="Bob")])
    first = said(MORNING + 60, "", type="21", reference={"messageId": begun["id"], "channelId": "11"})
    answer = said(MORNING + 120, "Stop it first.", name="Bob")
    write(tmp_path, "restore", [first, answer], channel=thread(begun["id"], "restore"))
    fetched = await pages(opened(tmp_path))
    in_thread = f"11/t/{begun['id']}"
    assert read(fetched) == {
        "11/d/2026-01-05": ["Ann: How do I restore a backup?"],
        "11/d/2026-01-06": ["Bob: next day"],
        in_thread: ["Ann: How do I restore a backup?", "Bob: Stop it first."],
    }
    assert fetched[-1].complete
    (document,) = (each.read() for each in entries(fetched) if each.document == in_thread)
    assert document.title == "restore"
    assert [each.url for each in talk(document.text)] == [
        f"https://discord.com/channels/5/11/{begun['id']}",
        f"https://discord.com/channels/5/{begun['id']}/{answer['id']}",
    ]


async def test_replies_quote_what_they_answer_and_forwards_say_it(tmp_path: Path) -> None:
    question = said(MORNING, "How do I **restore** it? " + "really " * 60)
    reply = said(MORNING + 9, "So.", type="Reply", reference={"messageId": question["id"]})
    gone = said(MORNING + 10, "Or so.", type="Reply", reference={"messageId": "17"})
    forward = said(MORNING + 11, "", forwardedMessage={"content": "from elsewhere", "attachments": []})
    pinned = said(MORNING + 12, "Ann pinned a message.", type="ChannelPinnedMessage")
    automatic = said(MORNING + 13, "blocked", type="24")
    write(tmp_path, "ops", [question, reply, gone, forward, pinned, automatic])
    ((document,),) = [[each.read() for each in entries(await pages(opened(tmp_path)))]]
    found = talk(document.text)
    assert [each.text for each in found[1:]] == ["So.", "Or so.", "[forwarded] from elsewhere"]
    assert (found[1].answers, found[2].quote) == (question["id"], "")
    assert found[1].quote.startswith("Ann: How do I **restore** it? really really")
    assert len(found[1].quote) <= 210


async def test_text_has_embeds_files_and_names(tmp_path: Path) -> None:
    """The preview of a link is cut, and addresses of files, which expire, are nowhere."""
    message = said(
        MORNING,
        "see https://example.org/a and <@71> in <#11>, `<@71>` at <t:1767600000:R> <:ok:5> </deploy:8>",
        mentions=[{"id": "71", "name": "bob", "nickname": "Bob"}],
        attachments=[{"id": "1", "url": "https://cdn.example.org/n.txt?ex=1&hm=2", "fileName": "n.txt"}],
        embeds=[
            {"title": "Page", "url": "https://example.org/a", "description": "d" * 900, "fields": []},
            {"title": "Build", "description": "failed", "fields": [{"name": "size", "value": "12 MB"}]},
        ],
    )
    write(tmp_path, "ops", [message])
    (entry,) = entries(await pages(opened(tmp_path)))
    text = talk(entry.read().text)[0].text
    assert text.startswith(
        "see https://example.org/a and @Bob in #11, `<@71>` at 2026-01-05 08:00 UTC :ok: /deploy\n"
    )
    assert "\nBuild\nfailed\nsize: 12 MB\n" in text
    assert text.endswith("[file: n.txt]")
    assert text.count("d" * 10) < 60
    assert "cdn.example.org" not in text


async def test_parts_and_repeated_messages_are_one_channel(tmp_path: Path) -> None:
    """A message that two files have counts once, as the later file in the order of names has it."""
    write(tmp_path, "ops [part 1]", [said(MORNING, "old"), said(MORNING + 1, "two")])
    write(tmp_path, "ops [part 2]", [said(MORNING, "edited"), said(MORNING + 2, "three")])
    assert read(await pages(opened(tmp_path))) == {
        "11/d/2026-01-05": ["Ann: edited", "Ann: two", "Ann: three"]
    }


async def test_range_of_dates_deletes_nothing_outside(tmp_path: Path) -> None:
    write(tmp_path, "ops", [said(MORNING)])
    source = opened(tmp_path)
    assert (await pages(source))[-1].complete
    write(
        tmp_path,
        "ops",
        [said(MORNING + DAY)],
        dateRange={"after": "2026-01-06T00:00:00+00:00", "before": None},
    )
    fetched = await pages(source)
    assert list(read(fetched)) == ["11/d/2026-01-06"]
    assert not fetched[-1].complete


async def test_unchanged_files_are_not_read_again(tmp_path: Path) -> None:
    write(tmp_path, "ops", [said(MORNING)])
    source = opened(tmp_path)
    first = await pages(source)
    (again,) = await pages(source, first[-1].cursor)
    assert (again.entries, again.cursor, again.complete) == ((), first[-1].cursor, False)


async def test_chosen_channels_are_read_by_name_or_id(tmp_path: Path) -> None:
    write(tmp_path, "ops", [said(MORNING)])
    write(tmp_path, "dev", [said(MORNING + 1)], channel=channel("12", "dev"))
    write(tmp_path, "why", [said(MORNING + 2)], channel=thread("13", "why"))
    assert list(read(await pages(opened(tmp_path, channels="#dev")))) == ["12/d/2026-01-05"]
    assert set(read(await pages(opened(tmp_path, channels="11")))) == {"11/d/2026-01-05", "11/t/13"}
    with pytest.raises(
        Misconfigured, match=r"has no channel 'opps' \(did you mean ops\?\); it has: dev, ops"
    ):
        await pages(opened(tmp_path, channels="opps"))


BROKEN = '[{"id": "1", "content": "not closed"}, {"id": ???}, %s, {"id": "3", "content": NaN}, %s]'


async def test_malformed_messages_are_named_and_the_others_read(tmp_path: Path) -> None:
    good, last = said(MORNING, "good"), said(MORNING + 1, 'with "quotes", [brackets] and \\')
    write(tmp_path, "ops", BROKEN % (json.dumps(good), json.dumps(last)))
    bad: list[Any] = [
        "text",
        None,
        said(MORNING, 5),
        said(MORNING, type="Surprise"),
        {**good, "id": "yesterday"},
    ]
    bad += [{**good, "author": None}, said(MORNING, "\ud83d half")]
    write(tmp_path, "typed", [*bad, said(MORNING + 2, "kept")])
    fetched = await pages(opened(tmp_path))
    assert read(fetched) == {"11/d/2026-01-05": ["Ann: good", f"Ann: {last['content']}", "Ann: kept"]}
    found = problems(fetched)
    assert [each.partition(": ")[0] for each in found] == [
        *(f"ops.json:{n}" for n in (1, 2, 4)),
        *(f"typed.json:{n}" for n in range(1, 8)),
    ]
    assert "author must be an object" in found[0]
    assert "not JSON" in found[1]
    assert "NaN is not valid JSON" in found[2]
    assert "content must be a string, not 5" in found[5]
    assert "type must be one of Discord's, such as Default or 0, not 'Surprise'" in found[6]
    assert "half a character" in found[9]
    # They are reported again, since without a cursor all is read again.
    assert fetched[-1].cursor == ""


async def test_file_that_ends_in_the_middle_keeps_its_channel(tmp_path: Path) -> None:
    write(tmp_path, "ops", [said(MORNING + n, f"m{n}") for n in range(3)])
    file = tmp_path / "export" / "ops.json"
    file.write_bytes(file.read_bytes()[:-150])
    fetched = await pages(opened(tmp_path))
    assert read(fetched)["11/d/2026-01-05"][:2] == ["Ann: m0", "Ann: m1"]
    (problem,) = fetched[0].problems
    assert "ends in the middle of the list" in problem.reason
    assert problem.folder == "11/"


@pytest.mark.parametrize("content", [b"", b'{"guild": {"id": "5', b"\xff\xfe{\x00}\x00"])
async def test_file_that_may_have_been_an_export_deletes_nothing(tmp_path: Path, content: bytes) -> None:
    """One that is being written has no list of messages yet, and may be of any channel; the others are read."""
    write(tmp_path, "dev", [said(MORNING)], channel=channel("12", "dev"))
    (tmp_path / "export" / "ops.json").write_bytes(content)
    fetched = await pages(opened(tmp_path, channels=["dev", "ops"]))
    assert list(read(fetched)) == ["12/d/2026-01-05"]
    found = [each for page in fetched for each in page.problems]
    assert [(each.subject, each.skipped, each.document + each.folder) for each in found] == [
        ("ops.json", False, ""),
        ("ops", True, ""),
    ]
    assert found[1].reason.startswith("no file that can be read is of this channel")
    assert fetched[-1].cursor == ""


async def test_range_of_dates_deletes_channels_that_the_options_leave_out(tmp_path: Path) -> None:
    write(tmp_path, "ops", [said(MORNING)], dateRange={"after": "2026-01-05T00:00:00+00:00", "before": None})
    write(tmp_path, "talk", [said(MORNING + 9)], channel=thread("15", "talk"))
    held = ["11/d/2025-01-01", "11/t/15", "11/t/16", "12/d/2025-01-01"]
    for names, kept in ((["ops"], held[:3]), (["talk"], held[1:2]), (["talk", "ops"], held[:3]), ([], held)):
        fetched = await pages(opened(tmp_path, channels=names))
        assert still_there(held, fetched) == set(kept), names


async def test_other_files_are_named_and_downloaded_ones_left_alone(tmp_path: Path) -> None:
    write(tmp_path, "ops", [said(MORNING)])
    (tmp_path / "export" / "other.json").write_text('{"a": 1}')
    (tmp_path / "export" / "utf16.json").write_bytes('{"messages": []}'.encode("utf-16"))
    write(tmp_path, "nobody", [said(MORNING)], channel={"name": "x"})
    (tmp_path / "export" / "ops.json_Files").mkdir()
    (tmp_path / "export" / "ops.json_Files" / "a.json").write_text("[]")
    fetched = await pages(opened(tmp_path))
    assert list(read(fetched)) == ["11/d/2026-01-05"]
    assert problems(fetched) == [
        "nobody.json: channel.id must be an id of Discord, such as 640049179111981056, not None",
        "other.json: is no export of DiscordChatExporter in the format Json: it has no list of messages",
        "utf16.json: UTF-16 (byte order mark at 0); convert it to UTF-8, e.g. with iconv",
    ]


async def test_location_without_messages_says_why(tmp_path: Path) -> None:
    (tmp_path / "export").mkdir()
    (page,) = await pages(opened(tmp_path))
    assert "no *.json; export with DiscordChatExporter" in page.empty
    write(tmp_path, "ops", [])
    (page,) = await pages(opened(tmp_path))
    assert page.empty == "there are no messages in 1 file"


async def test_link_finds_days_threads_and_their_messages(tmp_path: Path) -> None:
    begun = said(MORNING)
    write(tmp_path, "why", [said(MORNING + 60)], channel=thread(begun["id"], "why"))
    write(tmp_path, "ops", [begun])
    source: Any = opened(tmp_path)
    listed = {each.document: talk(each.read().text) for each in entries(await pages(source))}
    assert len(listed) == 2
    for name, messages in listed.items():
        for each in messages:
            found = source.linked(each.url, "")
            assert name in found.documents
            assert found.item == each.id
    assert source.linked("https://example.org/channels/5/11/1", "") is None
    assert "names channel 11 and no message" in source.linked("https://discord.com/channels/5/11", "").absent


async def test_real_messages_are_read_whole(data: Path) -> None:
    """Every message of a real channel is in the document of its day, at the time that the export says."""
    raw = json.loads((data / "discord.json").read_text("utf-8"))
    fetched = await pages(opened(data, "discord.json"))
    found = [each for entry in entries(fetched) for each in talk(entry.read().text)]
    assert not problems(fetched)
    assert [each.id for each in found] == [each["id"] for each in raw["messages"] if each["content"].strip()]
    assert {each.url.rpartition("/")[0] for each in found} == {
        "https://discord.com/channels/101550261366089708/104508989766719026"
    }
