"""Whatever happens in a server, after some quiet fetches the index is that of a first fetch."""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.sources.discord.test_web import Reader, reading

from flowbed.errors import Transient
from flowbed.testing.simulators.sources.discord import FORUM, Discord, DiscordFault
from flowbed.testing.sources import fetch_killed

HOUR = 3_600
FAULTS = {
    "storm": DiscordFault(kind="ratelimited", path="/channels", retry_after=30),
    "stop": DiscordFault(kind="global", retry_after=3),
    "cut": DiscordFault(kind="cut"),
    "fail": DiscordFault(kind="gateway", path="/messages"),
    "refuse": DiscordFault(kind="error", path="/messages"),
}
CHANGES = (
    "post",
    "answer",
    "begin",
    "reply",
    "edit",
    "delete",
    "edit_reply",
    "delete_reply",
    "archive",
    "delete_thread",
)
EVENTS = ("lose", "hide", "regain", "restart", *FAULTS)
PLACE = st.integers(0, 2)
CHANGE = st.tuples(st.sampled_from(CHANGES), PLACE, st.integers(0, 9))
EVENT = st.tuples(st.sampled_from(EVENTS), PLACE, st.integers(1, 3))
WAIT = st.tuples(st.just("wait"), st.just(0), st.sampled_from([1, 30, 24 * 5, 24 * 40]))
FETCH = st.one_of(st.just(("fetch", 0, 0)), st.tuples(st.just("die"), st.just(0), st.integers(1, 14)))
ROUND = st.tuples(st.lists(CHANGE, min_size=2, max_size=6), st.lists(EVENT, max_size=1), FETCH, WAIT)
HISTORIES = st.lists(ROUND, min_size=2, max_size=5).map(
    lambda rounds: [
        step for changes, events, fetch, wait in rounds for step in (*changes, *events, fetch, wait)
    ]
)


async def happen(discord: Discord, channels: list[str], reader: Reader, step: tuple[str, int, int]) -> None:
    """Do one step of a history."""
    do, place, number = step
    if do == "fetch":
        with contextlib.suppress(Transient):
            await reader.fetch()
    elif do == "die":
        reader.cursor = await fetch_killed(reader.source, reader.cursor, reader.apply, after=number)
    elif do in FAULTS:
        reader.discord.faults.append(replace(FAULTS[do], times=number))
    elif do == "restart":
        reader.cursor = ""  # and nothing is kept of what Discord answered
    elif do == "wait":
        discord.advance(number * HOUR)
    elif do in {"lose", "hide", "regain"}:
        getattr(discord, do)(channels[place])
    else:
        say(discord, channels[place], do, number)


def say(discord: Discord, channel: str, do: str, number: int) -> None:
    """Change a message or a thread of a channel, if there is one to change."""
    threads = [each.id for each in discord.channels.values() if each.parent == channel]
    thread = threads[number % len(threads)] if threads else ""
    is_forum = discord.channels[channel].kind == FORUM
    if do == "begin":
        begun = [each for each in discord.channels[channel].messages if str(each) not in discord.channels]
        message = str(begun[number % len(begun)]) if begun and number % 2 else ""
        discord.start_thread(channel, f"title {number}", f"question {number}", message=message)
    elif do in {"archive", "delete_thread"} and thread:
        getattr(discord, do)(thread)
    elif "reply" in do and thread:
        write(discord, thread, do.partition("_")[0], number)
    elif "reply" not in do and not is_forum:
        write(discord, channel, do, number)


def write(discord: Discord, place: str, do: str, number: int) -> None:
    """Write, answer, change or delete a message of a channel or thread."""
    messages = sorted(discord.channels[place].messages)
    some = str(messages[number % len(messages)]) if messages else ""
    if do in {"post", "reply"}:
        discord.post(place, f"text {number}")
    elif do == "answer" and some:
        discord.post(place, f"answer {number}", answers=some)
    elif do == "edit" and some:
        if discord.channels[place].messages[int(some)]["type"] in (0, 19):
            discord.edit(place, some, f"edited {number} at {discord.now}")
    elif do == "delete" and some:
        discord.delete(place, some)


async def lived(steps: list[tuple[str, int, int]]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the index after a history and some quiet fetches, and that of a first fetch."""
    discord = Discord()
    channels = [
        discord.add_channel("ops"),
        discord.add_channel("dev"),
        discord.add_channel("help", kind=FORUM),
    ]
    async with reading(discord, lookback=1) as reader:
        for name in channels[:2]:
            discord.post(name, "hello")
        for step in steps:
            await happen(discord, channels, reader, step)
            discord.advance(61)
        discord.faults = []
        for each in discord.channels:
            discord.regain(each)
        # Each fetch checks a slice of what is older than the look-back, and some archived threads.
        for _ in range(5 + len(discord.channels) // 2):
            discord.advance(25 * HOUR)
            await reader.fetch()
        fresh = Reader(discord, reader.source)
        await fresh.fetch()
    return reader.documents, fresh.documents


@settings(max_examples=8, deadline=None)
@given(steps=HISTORIES)
def test_history_ends_in_the_index_of_a_first_fetch(steps: list[tuple[str, int, int]]) -> None:
    found, wanted = asyncio.run(lived(steps))
    assert found == wanted


@pytest.mark.long
@settings(max_examples=200, deadline=None)
@given(steps=HISTORIES)
def test_many_histories_end_in_the_index_of_a_first_fetch(steps: list[tuple[str, int, int]]) -> None:
    found, wanted = asyncio.run(lived(steps))
    assert found == wanted
