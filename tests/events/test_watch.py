"""A watch: files followed, schedules kept, what waits embedded, failures told to a webhook, and a clean end."""

from __future__ import annotations

import asyncio
import json
import signal
import subprocess
import sys
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import pytest

from flowbed.errors import Misconfigured, NotFound
from flowbed.ledger import Swap

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable
    from pathlib import Path

    from tests.support.projects import Project

    from flowbed.bed import Flowbed

SECONDS = 60


class Watched:
    """A watch under way, and what it has said so far."""

    def __init__(self) -> None:
        self.events: list[dict[str, Any]] = []
        self.task: asyncio.Task[None]

    def say(self, event: Any) -> None:
        self.events.append(dict(event))

    async def eventually(self, check: Callable[[], Awaitable[object]]) -> None:
        """Wait until a check is met; fail at once if the watch has ended."""
        for _ in range(SECONDS * 20):
            if self.task.done():
                await self.task
            if await check():
                return
            await asyncio.sleep(0.05)
        raise AssertionError(self.events)

    async def until(self, done: Callable[[dict[str, Any]], bool]) -> None:
        """Wait for an event."""

        async def said() -> bool:
            return any(map(done, self.events))

        await self.eventually(said)


@asynccontextmanager
async def watching(bed: Flowbed) -> AsyncIterator[Watched]:
    """Watch while the block runs; the watch ends cleanly."""
    watched, stop = Watched(), asyncio.Event()
    watched.task = asyncio.create_task(bed.watch(stop=stop, say=watched.say))
    try:
        yield watched
    finally:
        stop.set()
        await asyncio.wait_for(watched.task, SECONDS)
    assert watched.events[-1] == {"event": "stopped"}


@asynccontextmanager
async def webhook() -> AsyncIterator[tuple[str, list[dict[str, Any]]]]:
    """Serve a webhook; give its URL and the messages that it got."""
    got: list[dict[str, Any]] = []

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        size = int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0])
        got.append(json.loads(await reader.readexactly(size)))
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\nconnection: close\r\n\r\nok")
        await writer.drain()
        writer.close()

    async with await asyncio.start_server(answer, "127.0.0.1", 0) as server:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/hook", got


def add_settings(project: Project, text: str) -> None:
    file = project.folder / "flowbed.toml"
    file.write_text(f"{file.read_text()}\n{text}\n")


async def texts_of(bed: Flowbed, collection: str) -> set[str]:
    try:
        return {hit.document for hit in await bed.search("any", collection=collection)}
    except NotFound:
        return set()


def embedded(chunks: int) -> Callable[[dict[str, Any]], bool]:
    return lambda event: event["event"] == "embedded" and event["chunks"] == chunks


async def test_watch_changed_folder_and_replaced_file_are_indexed(project: Project) -> None:
    """A new file in a folder, and a file that is replaced by another, are indexed without a command."""
    project.write("docs/a.txt", "first")
    project.write_lines("notes.jsonl", [{"id": "1", "text": "one"}])
    add_settings(
        project,
        '[sources.docs]\nkind = "files"\nlocation = "docs"\n'
        '[sources.notes]\nkind = "jsonl"\nlocation = "notes.jsonl"',
    )
    async with await project.open() as bed, watching(bed) as watched:

        async def holds(collection: str, texts: set[str]) -> None:
            async def indexed() -> bool:
                return await texts_of(bed, collection) == texts

            await watched.eventually(indexed)

        await holds("docs", {"first"})
        await holds("notes", {"one"})
        project.write("docs/deep/b.txt", "second")
        (project.folder / "docs/a.txt").unlink()
        await holds("docs", {"second"})
        project.write_lines("new.jsonl", [{"id": "1", "text": "one"}, {"id": "2", "text": "two"}])
        (project.folder / "new.jsonl").replace(project.folder / "notes.jsonl")
        await holds("notes", {"one", "two"})
    assert watched.events[0]["followed"] == ["docs", "notes"]
    assert not [event for event in watched.events if event["event"] == "failed"]


async def test_watch_missed_ticks_are_caught_up_once(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A source whose ticks were missed for days is fetched once, and one that is not due is not fetched."""
    monkeypatch.setattr("flowbed.events.watch.follow", _follow_nothing)
    for name in ("late", "early"):
        project.write(f"{name}/a.txt", f"text of {name}")
        add_settings(project, f'[sources.{name}]\nkind = "files"\nlocation = "{name}"\nevery = "6h"')
    async with await project.open() as bed:
        day = 86_400_000_000
        for name, last in (("late", bed.clock() - 9 * day), ("early", bed.clock())):
            cursor = await bed.ledger.documents.cursor(f"{name}.watch")
            await bed.ledger.documents.swap(Swap(cursor=cursor, value=str(last)))
        async with watching(bed) as watched:
            await watched.until(embedded(1))
            done = int((await bed.ledger.documents.cursor("late.watch")).value)
            assert bed.clock() - done < day
        fetched = [event["source"] for event in watched.events if event["event"] == "fetched"]
        assert fetched == ["late"]
        async with watching(bed) as again:
            await asyncio.sleep(0.2)  # long enough for a fetch of one file
        assert [event["event"] for event in again.events] == ["watching", "stopped"]


async def _follow_nothing(*_: object, **__: object) -> None:
    await asyncio.Event().wait()


async def test_watch_failing_source_delays_no_other_and_is_told_once(project: Project) -> None:
    """A source that cannot be read is reported to the webhook once an hour, with the fix; others are indexed."""
    project.write("docs/a.txt", "text")
    async with webhook() as (url, got):
        add_settings(
            project,
            f'[watch]\nwebhook = "{url}"\n'
            '[sources.gone]\nkind = "files"\nlocation = "nowhere"\nevery = "1s"\n'
            '[sources.docs]\nkind = "files"\nlocation = "docs"',
        )
        async with await project.open() as bed, watching(bed) as watched:
            await watched.until(embedded(1))

            def failures() -> int:
                return sum(1 for event in watched.events if event["event"] == "failed")

            await watched.until(lambda _: failures() >= 2 and bool(got))
        (message,) = got
        assert message["text"].startswith("project: fetching gone: ")
        assert message["text"].endswith("To fix it: `flowbed run gone`")


async def test_watch_listing_finds_what_no_event_told(project: Project) -> None:
    add_settings(project, '[watch]\nlist_every = "1s"')
    async with await project.open() as bed, watching(bed) as watched:
        await watched.until(lambda event: event["event"] == "watching")
        file = project.folder / ".flowbed/store/partner/chunked/one.json"
        file.parent.mkdir(parents=True)
        file.write_text('{"chunks": [{"text": "of a partner"}]}')
        await watched.until(embedded(1))
    assert list(project.documents("partner").values()) == ["of a partner"]


@pytest.mark.parametrize(
    ("setting", "said"),
    [
        ('cron = "0 0 30 2 *"', "no time that ever comes"),
        ('every = "6h"\ncron = "0 7 * * *"', "both every and cron"),
    ],
)
async def test_watch_invalid_schedule_is_refused_before_anything(
    project: Project, setting: str, said: str
) -> None:
    add_settings(project, f'[sources.docs]\nkind = "files"\nlocation = "."\n{setting}')
    async with await project.open() as bed:
        with pytest.raises(Misconfigured, match=said):
            await bed.watch()


async def test_add_changes_a_source_and_keeps_its_schedule(project: Project) -> None:
    project.write("docs/a.txt", "text")
    add_settings(
        project, '[sources.docs]\nkind = "files"\nlocation = "."\ncron = "0 7 * * *"\ntimezone = "Asia/Tokyo"'
    )
    async with await project.open() as bed:
        await bed.add("docs", kind="files", location="docs")
        source = bed.settings.sources["docs"]
        assert (source.location, source.cron, source.timezone) == ("docs", "0 7 * * *", "Asia/Tokyo")


@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 0), (signal.SIGINT, 130)])
@pytest.mark.usefixtures("interruptible")
def test_watch_command_signal_ends_cleanly(tmp_path: Path, number: signal.Signals, status: int) -> None:
    """The command says what happens as JSON lines, and ends cleanly on SIGTERM and on Ctrl-C."""
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs" / "a.txt").write_text("text")
    (tmp_path / "flowbed.toml").write_text(
        'model = "seeded:32"\n[sources.docs]\nkind = "files"\nlocation = "docs"\n'
    )
    command = [sys.executable, "-m", "flowbed", "watch", "--json"]
    with subprocess.Popen(
        command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if json.loads(line)["event"] == "embedded":
                break
        process.send_signal(number)
        out, err = process.communicate(timeout=SECONDS)
    assert json.loads(out.splitlines()[-1]) == {"event": "stopped"}
    assert (process.returncode, "Traceback" in err) == (status, False)
