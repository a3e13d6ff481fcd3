"""Whatever happens in a workspace, after some quiet fetches the index is that of a first fetch."""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tests.sources.slack.test_web import Reader, reading

from flowbed.errors import Transient
from flowbed.testing.simulators.sources.slack import SlackFault, SlackWorkspace
from flowbed.testing.sources import fetch_killed

HOUR = 3_600
FAULTS = {
    "storm": SlackFault(kind="ratelimited", retry_after=30),
    "expire": SlackFault(kind="expired_cursor"),
    "cut": SlackFault(kind="cut"),
    "refuse": SlackFault(kind="error", code="ekm_access_denied"),
}
CHANNELS = ("C1", "C2")

CHANGES = ("post", "reply", "broadcast", "edit", "delete")
EVENTS = ("lose", "join", "archive", "slow", "reset", "restart", *FAULTS)
CHANGE = st.tuples(st.sampled_from(CHANGES), st.sampled_from(CHANNELS), st.integers(0, 9))
EVENT = st.tuples(st.sampled_from(EVENTS), st.sampled_from(CHANNELS), st.integers(1, 3))
WAIT = st.tuples(st.just("wait"), st.just(""), st.sampled_from([1, 30, 24 * 5, 24 * 40]))
FETCH = st.one_of(st.just(("fetch", "", 0)), st.tuples(st.just("die"), st.just(""), st.integers(1, 14)))
# Messages are posted, read, and changed, soon or long after.
ROUND = st.tuples(st.lists(CHANGE, min_size=2, max_size=6), st.lists(EVENT, max_size=1), FETCH, WAIT)
HISTORIES = st.lists(ROUND, min_size=2, max_size=5).map(
    lambda rounds: [
        step for changes, events, fetch, wait in rounds for step in (*changes, *events, fetch, wait)
    ]
)


async def happen(workspace: SlackWorkspace, reader: Reader, step: tuple[str, str, int]) -> None:
    """Do one step of a history."""
    do, channel, number = step
    if do in {"fetch", "die"}:
        await read(reader, killed_after=number if do == "die" else 0)
    elif do in FAULTS:
        reader.simulator.faults.append(replace(FAULTS[do], times=number, channel=channel))
    elif do == "wait":
        workspace.now += number * HOUR
    elif do in {"lose", "join"}:
        workspace.channels[channel].member = do == "join"
    elif do == "archive":
        workspace.channels[channel].archived = True
    elif do == "slow":
        reader.simulator.slow = not reader.simulator.slow
    elif do in {"reset", "restart"}:
        begin_again(reader, lost=do == "restart")
    else:
        say(workspace, do, channel, number)


def begin_again(reader: Reader, *, lost: bool) -> None:
    """Forget the cursor, and what Slack answered too where that is `lost`."""
    reader.cursor = ""
    if lost and reader.source.raw is not None:
        reader.source.raw.unlink(missing_ok=True)


async def read(reader: Reader, *, killed_after: int) -> None:
    """Fetch, and be killed after some pages unless they are 0."""
    if killed_after:
        reader.cursor = await fetch_killed(reader.source, reader.cursor, reader.apply, after=killed_after)
        return
    # A storm may be too long for one fetch; what it has read is applied.
    with contextlib.suppress(Transient):
        await reader.fetch()


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


async def lived(steps: list[tuple[str, str, int]]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the index after a history and some quiet fetches, and that of a first fetch."""
    workspace = SlackWorkspace()
    for each in CHANNELS:
        workspace.add_channel(each, each.lower())
    with TemporaryDirectory() as folder:
        return await _lived(workspace, steps, Path(folder))


async def _lived(
    workspace: SlackWorkspace, steps: list[tuple[str, str, int]], folder: Path
) -> tuple[dict[str, Any], dict[str, Any]]:
    async with reading(workspace, page=3, lookback=1, minutes=2, raw=folder / "raw.db") as reader:
        for name in CHANNELS * 2:
            workspace.post(name, "hello")
        for step in steps:
            await happen(workspace, reader, step)
            workspace.now += 60
        reader.simulator.faults, reader.simulator.slow = [], False
        for channel in workspace.channels.values():
            channel.member = True
        # Each fetch checks a slice of what is older than the look-back, and threads once a day.
        for _ in range(6 + sum(len(each.messages) for each in workspace.channels.values())):
            workspace.now += 25 * HOUR
            await reader.fetch()
        fresh = Reader(reader.simulator, replace(reader.source, raw=None))
        await fresh.fetch()
    return reader.documents, fresh.documents


# In slow mode, a fetch may end between the threads of a part and its end, where a thread has lost its replies.
ENDED_WITHIN_A_PART = [
    ("post", "C1", 0),
    ("reply", "C2", 0),
    ("storm", "C1", 2),
    ("fetch", "", 0),
    ("wait", "", 1),
    ("post", "C1", 0),
    ("post", "C1", 0),
    ("post", "C2", 0),
    ("post", "C2", 0),
    ("edit", "C1", 8),
    ("post", "C1", 4),
    ("storm", "C2", 2),
    ("fetch", "", 0),
    ("wait", "", 120),
    ("delete", "C1", 2),
    ("reply", "C2", 2),
    ("fetch", "", 0),
    ("wait", "", 30),
    ("reply", "C1", 1),
    ("reply", "C2", 1),
    ("post", "C2", 1),
    ("post", "C2", 6),
    ("edit", "C1", 8),
    ("post", "C1", 4),
    ("storm", "C2", 2),
    ("fetch", "", 0),
    ("wait", "", 120),
    ("reply", "C2", 8),
    ("broadcast", "C1", 0),
    ("edit", "C2", 9),
    ("reply", "C1", 6),
    ("edit", "C1", 7),
    ("delete", "C2", 2),
    ("storm", "C2", 2),
    ("fetch", "", 0),
    ("wait", "", 30),
]


@settings(max_examples=5, deadline=None)
@example(steps=ENDED_WITHIN_A_PART)
@given(steps=HISTORIES)
def test_history_ends_in_the_index_of_a_first_fetch(steps: list[tuple[str, str, int]]) -> None:
    found, wanted = asyncio.run(lived(steps))
    assert found == wanted


@pytest.mark.long
@settings(max_examples=250, deadline=None)
@given(steps=HISTORIES)
def test_many_histories_end_in_the_index_of_a_first_fetch(steps: list[tuple[str, str, int]]) -> None:
    found, wanted = asyncio.run(lived(steps))
    assert found == wanted
