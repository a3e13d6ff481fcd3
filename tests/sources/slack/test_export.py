"""Exports of Slack workspaces: folders and zip files, threads over several days, and what is wrong with them."""

from __future__ import annotations

import json
import time
import zipfile
from typing import TYPE_CHECKING, Any
from unicodedata import normalize

import pytest

from flowbed.errors import Misconfigured
from flowbed.records.conversations import Conversation
from flowbed.sources import open_source
from flowbed.testing.sources import entries, pages

if TYPE_CHECKING:
    from pathlib import Path

    from flowbed.records import Page
    from flowbed.sources import Source

DAY_ONE, DAY_TWO = "1767600000", "1767690000"  # 5 and 6 January 2026


def later() -> int:
    return time.time_ns() // 1_000 + 60_000_000


def opened(export: Path, **options: Any) -> Source:
    return open_source(
        "slack", str(export), folder=export, options={"url": "https://acme.slack.com", **options}, clock=later
    )


def message(ts: str, text: Any = "words", **more: Any) -> dict[str, Any]:
    return {"type": "message", "user": "U1", "ts": ts, "text": text, **more}


@pytest.fixture
def export(tmp_path: Path) -> Path:
    """An export of one empty channel."""
    folder = tmp_path / "export"
    (folder / "ops").mkdir(parents=True)
    (folder / "channels.json").write_text('[{"id": "C1", "name": "ops"}]')
    (folder / "users.json").write_text(
        '[{"id": "U1", "profile": {"display_name": "Ann"}}, {"id": "U2", "name": "bob"}]'
    )
    return folder


def write(export: Path, day: str, messages: list[Any] | str, channel: str = "ops") -> None:
    (export / channel).mkdir(exist_ok=True)
    text = messages if isinstance(messages, str) else json.dumps(messages)
    (export / channel / f"{day}.json").write_text(text)


def zipped(export: Path, archive: Path) -> Path:
    with zipfile.ZipFile(archive, "w") as target:
        for path in export.rglob("*.json"):
            target.write(path, path.relative_to(export))
    return archive


def read(fetched: list[Page]) -> dict[str, list[str]]:
    """Return the lines of each document."""
    return {
        entry.document: [
            f"{each.author}: {each.text}" for each in Conversation.from_json(entry.read().text).messages
        ]
        for entry in entries(fetched)
    }


def problems(fetched: list[Page]) -> list[str]:
    return [f"{each.subject}: {each.reason}" for page in fetched for each in page.problems]


async def test_replies_of_other_days_are_in_their_thread(export: Path) -> None:
    """A thread has its replies of all days, a broadcast reply once; a parent need not know of its replies."""
    thread = f"{DAY_ONE}.000100"
    broadcast = message(
        f"{DAY_TWO}.000300", "to all", user="U2", subtype="thread_broadcast", thread_ts=thread
    )
    write(export, "2026-01-05", [message(f"{DAY_ONE}.000050", "before"), message(thread, "why?")])
    write(export, "2026-01-06", [message(f"{DAY_TWO}.000200", "so", thread_ts=thread), broadcast, broadcast])
    fetched = await pages(opened(export))
    assert read(fetched) == {
        "C1/d/2026-01-05": ["Ann: before"],
        f"C1/t/{thread}": ["Ann: why?", "Ann: so", "bob: to all"],
    }
    talk = Conversation.from_json(entries(fetched)[1].read().text)
    assert talk.channel == "#ops"
    assert talk.messages[0].url == "https://acme.slack.com/archives/C1/p1767600000000100"
    assert talk.messages[1].url == (
        f"https://acme.slack.com/archives/C1/p1767690000000200?thread_ts={thread}&cid=C1"
    )


async def test_deleted_parent_and_notices_of_the_channel_have_no_text(export: Path) -> None:
    thread = f"{DAY_ONE}.000100"
    write(export, "2026-01-05", [
        message(thread, "This message was deleted.", subtype="tombstone", hidden=True, thread_ts=thread, reply_count=1),
        message(f"{DAY_ONE}.000200", "answer", thread_ts=thread),
        message(f"{DAY_ONE}.000300", "<@U1> has joined", subtype="channel_join"),
        message(f"{DAY_ONE}.000400", "", files=[{"title": "run.log", "preview": "lines"}]),
        message(f"{DAY_ONE}.000500", "deploy", user=None, bot_id="B1", username="ci", subtype="bot_message"),
    ])  # fmt: skip
    assert read(await pages(opened(export))) == {
        f"C1/t/{thread}": ["Ann: answer"],
        "C1/d/2026-01-05": ["Ann: [file: run.log]\nlines", "ci: deploy"],
    }


async def test_malformed_messages_skip_only_themselves(export: Path) -> None:
    broken = [
        3,
        {"ts": "yesterday", "text": "x"},
        message(f"{DAY_ONE}.000100", text=7),
        message(f"{DAY_ONE}.1"),
    ]
    write(export, "2026-01-05", [*broken, message(f"{DAY_ONE}.000200", "whole")])
    fetched = await pages(opened(export))
    assert read(fetched) == {"C1/d/2026-01-05": ["Ann: whole"]}
    assert [each.partition(": ")[0] for each in problems(fetched)] == [
        f"ops/2026-01-05.json:{n}" for n in (1, 2, 3, 4)
    ]
    assert all(each.skipped for page in fetched for each in page.problems)


async def test_many_malformed_messages_are_counted(export: Path) -> None:
    write(export, "2026-01-05", [None] * 100)
    found = problems(await pages(opened(export)))
    assert len(found) == 21
    assert found[-1] == "ops/2026-01-05.json: 80 more of its messages could not be read"


async def test_half_a_character_skips_only_its_message(export: Path) -> None:
    half, whole = message(f"{DAY_ONE}.000100", "\ud83d"), message(f"{DAY_ONE}.000200", "whole")
    write(export, "2026-01-05", [half, whole])
    fetched = await pages(opened(export))
    assert read(fetched) == {"C1/d/2026-01-05": ["Ann: whole"]}
    assert problems(fetched) == [
        "ops/2026-01-05.json:1: contains half a character, or a number of more than 64 bits"
    ]


async def test_broken_file_keeps_what_its_channel_had(export: Path) -> None:
    """A file that ends too soon is a problem of its channel, and other files are read."""
    write(export, "2026-01-05", "[{")
    write(export, "2026-01-06", [message(f"{DAY_TWO}.000100")])
    write(export, "2026-01-07", "")
    write(export, "2026-01-08", '{"ok": false}')
    fetched = await pages(opened(export))
    assert list(read(fetched)) == ["C1/d/2026-01-06"]
    found = [each for page in fetched for each in page.problems]
    assert [(each.subject, each.folder, each.skipped) for each in found] == [
        ("ops/2026-01-05.json", "C1/", True),
        ("ops/2026-01-08.json", "C1/", True),
    ]


async def test_folder_whose_name_is_decomposed_is_that_of_its_channel(export: Path) -> None:
    """Some file systems and archives write letters with marks in two parts."""
    (export / "channels.json").write_text('[{"id": "C1", "name": "ops"}, {"id": "C2", "name": "開発が"}]')
    write(export, "2026-01-05", [message(f"{DAY_ONE}.000100")], channel=normalize("NFD", "開発が"))
    for options in ({}, {"channels": ["開発が"]}):
        fetched = await pages(opened(export, **options))
        assert (list(read(fetched)), problems(fetched)) == (["C2/d/2026-01-05"], [])


@pytest.mark.parametrize("lists", ["", "[{", '{"ok": false}'])
async def test_folder_whose_list_is_broken_is_not_read_under_its_name(export: Path, lists: str) -> None:
    """Its id is not known then: read under its name, all would be embedded again, and the rest deleted."""
    write(export, "2026-01-05", [message(f"{DAY_ONE}.000100")])
    write(export, "2026-01-05", [message(f"{DAY_ONE}.000100")], channel="secret")
    (export / "groups.json").write_text('[{"id": "G2", "name": "secret"}]')
    (export / "channels.json").write_text(lists)
    fetched = await pages(opened(export))
    assert list(read(fetched)) == ["G2/d/2026-01-05"]
    found = {each.subject: each for page in fetched for each in page.problems}
    assert list(found) == ["channels.json", "ops/"]
    assert not found["channels.json"].skipped
    assert (
        found["ops/"].reason == "not read, since its id is not known while a list of channels cannot be read"
    )
    assert fetched[-1].cursor == ""


async def test_folder_without_channel_is_read_under_its_name(export: Path) -> None:
    write(export, "2026-01-05", [message(f"{DAY_ONE}.000100")], channel="renamed")
    fetched = await pages(opened(export))
    assert list(read(fetched)) == ["renamed/d/2026-01-05"]
    assert problems(fetched) == [
        "renamed/: is in none of the lists of channels; its name takes the place of its id"
    ]


@pytest.mark.parametrize("packed", [False, True])
async def test_files_that_may_have_messages_but_are_no_days_are_named(
    export: Path, tmp_path: Path, packed: bool
) -> None:
    """Known files without messages are not, nor uploads, nor those of channels that are not wanted."""
    write(export, "2026-01-05", [message(f"{DAY_ONE}.000100")])
    for name in ("2026-01-05 (1)", "January", "canvas_in_the_conversation"):
        write(export, name, [message(f"{DAY_ONE}.000200")])
    write(export, "all", [], channel="unlisted")
    write(export, "F1", [], channel="attachments")
    (export / "integration_logs.json").write_text("[]")
    (export / "messages.json").write_text("[]")
    fetched = await pages(opened(zipped(export, tmp_path / "export.zip") if packed else export))
    assert [each.partition(": ")[0] for each in problems(fetched)] == [
        "messages.json",
        "ops/2026-01-05 (1).json, ops/January.json",
        "unlisted/all.json",
    ]
    assert "rename those with messages" in problems(fetched)[0]
    assert (list(read(fetched)), fetched[-1].complete) == (["C1/d/2026-01-05"], True)
    write(export, "2026-01-06", [], channel="general")
    wanted = opened(export, channels=["general"])
    assert (await pages(wanted))[-1].empty == "there are no messages of general in the export"
    assert [each.partition(": ")[0] for each in problems(await pages(wanted))] == [
        "general/",
        "messages.json",
        "unlisted/all.json",
    ]


async def test_direct_messages_are_called_after_their_members(export: Path) -> None:
    (export / "dms.json").write_text('[{"id": "D1", "members": ["U1", "U2"]}]')
    write(export, "2026-01-05", [message(f"{DAY_ONE}.000100")], channel="D1")
    (entry,) = entries(await pages(opened(export)))
    assert Conversation.from_json(entry.read().text).channel == "DM Ann, bob"


async def test_channels_option_takes_names_and_ids(export: Path) -> None:
    (export / "channels.json").write_text('[{"id": "C1", "name": "ops"}, {"id": "C2", "name": "dev"}]')
    write(export, "2026-01-05", [message(f"{DAY_ONE}.000100")])
    write(export, "2026-01-05", [message(f"{DAY_ONE}.000100")], channel="dev")
    for name in ("#dev", "dev", "C2"):
        assert list(read(await pages(opened(export, channels=name)))) == ["C2/d/2026-01-05"]
    with pytest.raises(Misconfigured, match=r"no channel 'devs' \(did you mean dev\?\); it has: dev, ops"):
        await pages(opened(export, channels=["devs"]))


async def test_renamed_user_changes_no_etag(export: Path) -> None:
    write(export, "2026-01-05", [message(f"{DAY_ONE}.000100")])
    before = await pages(opened(export))
    (export / "users.json").write_text('[{"id": "U1", "profile": {"display_name": "Anna"}}]')
    after = await pages(opened(export), before[-1].cursor)
    assert read(after) == {"C1/d/2026-01-05": ["Anna: words"]}
    assert entries(after)[0].etag == entries(before)[0].etag


@pytest.mark.parametrize("top", ["", "acme export/"])
async def test_zip_file_gives_the_same_documents(export: Path, tmp_path: Path, top: str) -> None:
    write(export, "2026-01-05", [message(f"{DAY_ONE}.000100", "one")])
    (export / "__uploads").mkdir()
    (export / "__uploads" / "picture.json").write_text("no messages")
    archive = tmp_path / "export.zip"
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as target:
        for name in ("channels.json", "users.json", "__uploads/picture.json", "ops/2026-01-05.json"):
            target.write(export / name, f"{top}{name}")
    folder, packed = await pages(opened(export)), await pages(opened(archive))
    assert [(each.document, each.etag) for each in entries(folder)] == [
        (each.document, each.etag) for each in entries(packed)
    ]
    assert read(folder) == read(packed) != {}
    assert [each.entries for each in await pages(opened(archive), packed[-1].cursor)] == [()]


async def test_zip_file_of_a_bomb_is_refused_before_it_is_unpacked(export: Path, tmp_path: Path) -> None:
    archive = tmp_path / "export.zip"
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as target:
        target.write(export / "channels.json", "channels.json")
        with target.open("ops/2026-01-05.json", "w", force_zip64=True) as member:
            for _ in range(80):
                member.write(b" " * 2**20)
    (problem,) = problems(await pages(opened(archive)))
    assert problem == "ops/2026-01-05.json: has 83,886,080 bytes; a file of an export may have 67,108,864"


async def test_other_folders_and_files_are_no_export(tmp_path: Path) -> None:
    (tmp_path / "notes").mkdir()
    with pytest.raises(Misconfigured, match="is no Slack export"):
        await pages(opened(tmp_path / "notes"))
    (tmp_path / "notes.txt").write_text("x")
    with pytest.raises(Misconfigured, match="neither a folder nor a zip file"):
        await pages(opened(tmp_path / "notes.txt"))


async def test_real_exports_are_read_whole(data: Path) -> None:
    """Every message of people in two real exports is in exactly one document."""
    for name in ("slack-export", "slack-export-racket"):
        export = data / name
        fetched = await pages(opened(export))
        assert not problems(fetched)
        wanted = {
            each["ts"]
            for path in export.glob("*/*.json")
            for each in json.loads(path.read_text("utf-8"))
            if each.get("subtype") in {None, "file_share", "file_comment"} and each["text"].strip()
        }
        found = [
            each.id
            for entry in entries(fetched)
            for each in Conversation.from_json(entry.read().text).messages
        ]
        assert len(found) == len(set(found))
        assert wanted <= set(found)
