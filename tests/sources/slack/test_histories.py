"""Whatever happens in a workspace, after some quiet fetches the index is that of a first fetch."""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import replace
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from tests.sources.slack.test_web import Reader, reading

from flowbed.errors import Transient
from flowbed.testing.simulators.sources.slack import SlackFault, SlackWorkspace

HOUR = 3_600
FAULTS = {
    "storm": SlackFault(kind="ratelimited", retry_after=30),
    "expire": SlackFault(kind="expired_cursor"),
    "cut": SlackFault(kind="cut"),
    "refuse": SlackFault(kind="error", code="ekm_access_denied"),
}
CHANNELS = ("C1", "C2")

STEPS = st.one_of(
    st.tuples(st.just("post"), st.sampled_from(CHANNELS), st.integers(0, 9)),
    st.tuples(st.just("reply"), st.sampled_from(CHANNELS), st.integers(0, 9)),
    st.tuples(st.just("broadcast"), st.sampled_from(CHANNELS), st.integers(0, 9)),
    st.tuples(st.just("edit"), st.sampled_from(CHANNELS), st.integers(0, 9)),
    st.tuples(st.just("delete"), st.sampled_from(CHANNELS), st.integers(0, 9)),
    st.tuples(st.just("wait"), st.just(""), st.sampled_from([1, 30, 24 * 5, 24 * 40])),
    st.tuples(st.just("fetch"), st.just(""), st.just(0)),
    st.tuples(st.just("die"), st.just(""), st.integers(1, 9)),
    st.tuples(st.just("lose"), st.sampled_from(CHANNELS), st.just(0)),
    st.tuples(st.just("join"), st.sampled_from(CHANNELS), st.just(0)),
    st.tuples(st.just("archive"), st.sampled_from(CHANNELS), st.just(0)),
    st.tuples(st.just("storm"), st.just(""), st.integers(1, 9)),
    st.tuples(st.just("expire"), st.just(""), st.integers(1, 3)),
    st.tuples(st.just("cut"), st.just(""), st.integers(1, 3)),
    st.tuples(st.just("refuse"), st.sampled_from(CHANNELS), st.integers(1, 3)),
)


async def happen(workspace: SlackWorkspace, reader: Reader, step: tuple[str, str, int]) -> None:
    """Do one step of a history."""
    do, channel, number = step
    if do in {"fetch", "die"}:
        # A storm may be too long for one fetch; what it has read is applied.
        with contextlib.suppress(Transient):
            await (reader.fetch() if do == "fetch" else die(reader, after=number))
    elif do in FAULTS:
        reader.simulator.faults.append(replace(FAULTS[do], times=number, channel=channel))
    elif do == "wait":
        workspace.now += number * HOUR
    elif do in {"lose", "join"}:
        workspace.channels[channel].member = do == "join"
    elif do == "archive":
        workspace.channels[channel].archived = True
    else:
        say(workspace, do, channel, number)


def say(workspace: SlackWorkspace, do: str, channel: str, number: int) -> None:
    """Change a message of a channel, if there is one to change."""
    messages = workspace.channels[channel].messages
    alive = [ts for ts, each in sorted(messages.items()) if not each.get("hidden")]
    parents = [ts for ts in alive if "thread_ts" not in messages[ts]]
    if do == "post":
        workspace.post(channel, f"text {number}")
    elif do in {"reply", "broadcast"} and parents:
        workspace.post(
            channel, f"reply {number}", thread=parents[number % len(parents)], broadcast=do == "broadcast"
        )
    elif do == "edit" and alive:
        workspace.edit(channel, alive[number % len(alive)], f"edited {number} at {workspace.now}")
    elif do == "delete" and alive:
        workspace.delete(channel, alive[number % len(alive)])


async def die(reader: Reader, *, after: int) -> None:
    """Fetch, and end after some pages: the last one is applied, and its cursor is not yet saved."""
    left, saved = after, reader.cursor
    async for page in reader.source.fetch(reader.cursor):
        left -= 1
        if not left:
            break
        reader.apply(page)
        saved = page.cursor
    reader.cursor = saved


async def lived(steps: list[tuple[str, str, int]]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the index after a history and some quiet fetches, and that of a first fetch."""
    workspace = SlackWorkspace()
    for each in CHANNELS:
        workspace.add_channel(each, each.lower())
    async with reading(workspace, page=3) as reader:
        for step in steps:
            await happen(workspace, reader, step)
            workspace.now += 60
        reader.simulator.faults = []
        for channel in workspace.channels.values():
            channel.member = True
        # Each fetch checks a slice of what is older than the look-back, and threads once a day.
        for _ in range(6 + sum(len(each.messages) for each in workspace.channels.values())):
            workspace.now += 25 * HOUR
            await reader.fetch()
        fresh = Reader(reader.simulator, reader.source)
        await fresh.fetch()
    return reader.documents, fresh.documents


@settings(max_examples=30, deadline=None)
@given(steps=st.lists(STEPS, min_size=4, max_size=24))
def test_history_ends_in_the_index_of_a_first_fetch(steps: list[tuple[str, str, int]]) -> None:
    found, wanted = asyncio.run(lived(steps))
    assert found == wanted
