"""Subscribers: every batch file is delivered at least once, each subscriber at its own pace and position."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING

import pytest
from tests.events.test_watch import add_settings, watching, webhook

from flowbed.errors import Misconfigured, Rejected
from flowbed.events.subscribers import Command, Deliveries, Subscriber
from flowbed.settings import read_settings

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from tests.support.projects import Project

    from flowbed.bed import Flowbed
    from flowbed.ledger import BatchRow


@pytest.fixture(autouse=True)
def no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    """Retry at once."""
    monkeypatch.setattr("flowbed.events.subscribers.RETRIES", (0.0, 0.0))


class Inbox:
    """Keeps what it gets; fails as often as `fails` says for a source, or for ever with -1."""

    def __init__(self, **fails: int) -> None:
        self.got: list[str] = []
        self.tries = 0
        self._fails = fails

    async def deliver(self, row: BatchRow) -> None:
        self.tries += 1
        if self._fails.get(row.source):
            self._fails[row.source] -= 1
            raise Rejected("the inbox is full")
        self.got.append(row.key)


async def ignore(*_: object) -> None:
    """Take a failure."""


def deliveries(bed: Flowbed, inbox: Inbox, name: str = "mail", sources: Sequence[str] = ()) -> Deliveries:
    return Deliveries(
        subscriber=Subscriber(name=name, delivery=inbox, sources=sources),
        ledger=bed.ledger,
        clock=bed.clock,
        failed=ignore,
    )


async def two_sources(project: Project, bed: Flowbed) -> None:
    """Fetch one batch file of each of two sources."""
    for name in ("a", "b"):
        project.write(f"{name}/x.txt", f"text of {name}")
        await bed.add(name, kind="files", location=name)
        await bed.fetch(name)


async def test_subscriber_gets_each_batch_file_once_and_goes_on_where_it_was(project: Project) -> None:
    """Another subscriber begins at the beginning, and one of some sources gets only theirs."""
    async with await project.open() as bed:
        await two_sources(project, bed)
        inbox = Inbox()
        await deliveries(bed, inbox).deliver_new()
        assert [key.partition("/")[0] for key in inbox.got] == ["a", "b"]
        await deliveries(bed, inbox).deliver_new()
        assert len(inbox.got) == 2
        project.write("b/y.txt", "more of b")
        await bed.fetch("b")
        await deliveries(bed, inbox).deliver_new()
        assert [key.partition("/")[0] for key in inbox.got] == ["a", "b", "b"]
        other = Inbox()
        await deliveries(bed, other, "other", sources=["b"]).deliver_new()
        assert other.got == inbox.got[1:]


async def test_subscriber_that_was_killed_gets_the_batch_file_again(project: Project) -> None:
    """A delivery whose end was not recorded is repeated, and none is left out."""
    async with await project.open() as bed:
        await two_sources(project, bed)
        inbox = Inbox()
        killed = deliveries(bed, inbox)

        async def dies(**_: object) -> None:
            raise KeyboardInterrupt

        killed._move = dies  # type: ignore[method-assign]
        with pytest.raises(KeyboardInterrupt):
            await killed.deliver_new()
        await deliveries(bed, inbox).deliver_new()
        assert [key.partition("/")[0] for key in inbox.got] == ["a", "a", "b"]


async def test_subscriber_that_fails_gets_a_dead_letter_after_two_retries(
    project: Project,
) -> None:
    """The letter names batch file, reason and attempts; its retry delivers that batch file again."""
    async with await project.open() as bed:
        await two_sources(project, bed)
        inbox = Inbox(a=3)
        await deliveries(bed, inbox).deliver_new()
        assert inbox.tries == 4
        (letter,) = await bed.dead_letters(source="a")
        assert (letter.kind, letter.owner, letter.attempts) == ("subscriber", "mail", 3)
        assert (letter.subject, letter.reason) == (letter.batches[0], "the inbox is full")
        assert letter.subject.startswith("a/chunked/")
        await bed.replay(batch=letter.subject)
        assert await bed.dead_letters() == []
        await deliveries(bed, inbox).deliver_new()
        assert [key.partition("/")[0] for key in inbox.got] == ["b", "a"]
        await deliveries(bed, inbox).deliver_new()
        assert len(inbox.got) == 2


async def test_watch_slow_subscriber_delays_no_other(project: Project, tmp_path: Path) -> None:
    """A command that never ends keeps neither a webhook, nor a copy, nor embedding from a batch file."""
    project.write("a/x.txt", "text")
    mark = tmp_path / "started"
    code = f"import pathlib, sys, time; pathlib.Path({str(mark)!r}).write_text(sys.stdin.read()); time.sleep(600)"
    async with webhook() as (url, got):
        add_settings(
            project,
            '[sources.a]\nkind = "files"\nlocation = "a"\n'
            f'[[subscribers]]\nname = "slow"\ncommand = [{json.dumps(sys.executable)}, "-c", {json.dumps(code)}]\n'
            f'[[subscribers]]\nname = "hook"\nwebhook = "{url}"\n'
            f'[[subscribers]]\nname = "copy"\ncopy_to = "{tmp_path / "other"}"\n',
        )
        async with await project.open() as bed, watching(bed) as watched:

            async def all_there() -> bool:
                copied = list((tmp_path / "other").glob("a/chunked/**/batch_*.json"))
                return bool(mark.exists() and mark.read_text() and got and copied)

            await watched.eventually(all_there)
            await watched.until(lambda event: event["event"] == "embedded")
        told = json.loads(mark.read_text())
        assert got == [told]
        assert (told["event"], told["source"], told["chunks"]) == ("batch", "a", 1)
        (copied,) = (tmp_path / "other").glob("a/chunked/**/batch_*.json")
        assert copied.read_bytes() == (project.folder / ".flowbed/store" / told["key"]).read_bytes()


@pytest.mark.parametrize(
    ("code", "seconds", "said"),
    [
        ("import sys; sys.exit('no such list')", 60.0, "ended with status 1: no such list"),
        ("import time; time.sleep(600)", 0.2, r"took longer than 0\.2 s"),
        (None, 60.0, "cannot be started: No such file"),
    ],
)
async def test_command_that_fails_says_why(
    project: Project, code: str | None, seconds: float, said: str
) -> None:
    command = ["/nowhere/at-all"] if code is None else [sys.executable, "-c", code]
    async with await project.open() as bed:
        await two_sources(project, bed)
        (event,) = await bed.ledger.batches.events("a", after=0, limit=9)
        row = (await bed.ledger.batches.get([event.batch]))[event.batch]
    with pytest.raises(Rejected, match=said):
        await Command(command=command, folder=str(project.folder), seconds=seconds).deliver(row)


@pytest.mark.parametrize(
    ("table", "said"),
    [
        ('name = "x"', "needs one of command, webhook and copy_to"),
        ('name = "x"\ncommand = ["a"]\ncopy_to = "b"', "needs one of"),
        ('name = "Big Name"\ncopy_to = "b"', "subscriber name"),
        (
            'name = "x"\ncopy_to = "b"\n[[subscribers]]\nname = "x"\ncopy_to = "c"',
            "two subscribers have one name",
        ),
        ('name = "x"\ncopi = "b"', "no such setting"),
        ('name = "x"\ncopy_to = "b"\ntimeout = "soon"', "timeout"),
    ],
)
def test_subscribers_invalid_table_is_refused(project: Project, table: str, said: str) -> None:
    add_settings(project, f"[[subscribers]]\n{table}")
    with pytest.raises(Misconfigured, match=said):
        read_settings(project.folder)
