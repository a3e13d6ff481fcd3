"""Slack's limits: slow mode, a time for each run, and methods and channels that do not wait for each other."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
from tests.sources.slack.test_web import DAY, Reader, problems, reading, workspace_of

from flowbed.sources.slack.estimate import in_words
from flowbed.sources.slack.messages import Channel
from flowbed.sources.slack.pacing import Pacing
from flowbed.sources.slack.positions import Position
from flowbed.sources.slack.reading import ChannelReading
from flowbed.telemetry import RETRIED, listen
from flowbed.testing.simulators.sources.slack import SlackFault, SlackWorkspace

if TYPE_CHECKING:
    from flowbed.records import Page


def busy_workspace(threads: int) -> SlackWorkspace:
    """Return a workspace with a thread on each of many days."""
    workspace = SlackWorkspace()
    workspace.add_channel("C1", "ops")
    workspace.channels["C1"].created = workspace.now - (threads + 10) * DAY
    for day in range(threads):
        ts = f"{workspace.now - day * DAY}.000000"
        workspace.post("C1", f"day {day}", ts=ts)
        workspace.post("C1", "an answer", thread=ts, ts=f"{workspace.now - day * DAY + 60}.000000")
    workspace.now += 3_600
    return workspace


async def until_done(reader: Reader, *, most: int) -> int:
    """Fetch until nothing is left; return how many fetches that took."""
    for number in range(1, most + 1):
        fetched = await reader.fetch()
        if not any("not all was read" in each for each in problems(fetched)):
            return number
    raise AssertionError("the runs do not advance")


async def test_slow_mode_run_ends_after_its_minutes_and_the_next_goes_on() -> None:
    """40 threads at one a minute, 10 minutes a run: every run reads some, none twice, and each says what is left."""
    workspace = busy_workspace(40)
    async with reading(workspace, slow=True, minutes=10) as reader:
        began = workspace.now
        first = await reader.fetch()
        assert workspace.now - began <= 11 * 60
        said = problems(first)
        assert said[-2].startswith("Slack: allows this app one call a minute, and 15 messages a call")
        assert said[-1].startswith("Slack: not all was read in 10 minutes (option minutes): about ")
        assert said[-1].endswith(" minutes; the next run goes on from there")
        assert 0 < len(reader.documents) < 15
        assert not first[-1].complete
        runs = await until_done(reader, most=12)
        assert runs >= 3
        assert reader.calls("conversations.replies") <= 40 + reader.simulator.statuses[429]
        assert reader.simulator.statuses[429] <= 3 * (runs + 1)
        fresh = Reader(
            reader.simulator, replace(reader.source, options=replace(reader.source.options, seconds=1e9))
        )
        await fresh.fetch()
    assert reader.documents == fresh.documents


async def test_slow_mode_says_how_long_it_takes_while_it_waits() -> None:
    said = []
    stop = listen(lambda point, facts: said.append(facts) if point == RETRIED else None)
    workspace = busy_workspace(40)
    try:
        async with reading(workspace, slow=True) as reader:
            await reader.fetch()
    finally:
        stop()
    reasons = [each["reason"] for each in said if each["limited"]]
    assert "Slack allows this app one call of conversations.replies a minute; about " in reasons[-1]
    minutes = [int(each.split()[-2]) for each in reasons if each.endswith("minutes")]
    assert 30 < max(minutes) < 60
    assert minutes[-1] < 5
    assert max(map(len, reasons)) < 160  # longer ones are cut on a terminal


async def test_slow_mode_day_of_more_pages_than_a_run_has_minutes_is_read() -> None:
    """What a run has begun it finishes, so that each run advances."""
    workspace = workspace_of(2)
    for number in range(200):
        workspace.post("C1", f"n{number}")
    workspace.now += 3_600
    async with reading(workspace, slow=True, minutes=3) as reader:
        for _ in range(4):
            await reader.fetch()
    assert sum(map(len, reader.documents.values())) == 202


async def test_slow_mode_with_many_channels_reads_their_past_too() -> None:
    """Listing the last days of all channels takes a whole run, and the past of each advances all the same."""
    workspace = SlackWorkspace()
    for number in range(12):
        workspace.add_channel(f"C{number}", f"c{number}")
        for day in range(20):
            workspace.post(f"C{number}", f"day {day}", ts=f"{workspace.now - day * DAY}.{number:06d}")
    workspace.now += 3_600
    async with reading(workspace, slow=True, minutes=5) as reader:
        for _ in range(16):
            await reader.fetch()
            workspace.now += 3_600
    assert len(reader.documents) == 12 * 20


async def test_normal_limits_are_not_taken_for_slow_mode() -> None:
    """A long wait after many calls, or after a page of more than 15 messages, is an ordinary limit."""
    workspace = busy_workspace(40)
    async with reading(workspace, page=100) as reader:
        reader.simulator.faults = [
            SlackFault(kind="ratelimited", method="conversations.replies", retry_after=50)
        ]
        fetched = await reader.fetch()
    assert reader.slept == [50.0]
    assert problems(fetched) == []


async def test_limit_of_one_method_stops_no_other() -> None:
    """While replies wait for their limit, histories of other channels are read and indexed."""
    workspace = busy_workspace(1)
    for number in range(2, 6):
        workspace.add_channel(f"C{number}", f"c{number}")
        workspace.post(f"C{number}", "hello", ts=f"{workspace.now - 7_200}.000000")
    limited = asyncio.Event()

    async def sleep(_seconds: float) -> None:
        await limited.wait()
        workspace.now += 3_600

    async with reading(workspace) as reader:
        reader.source = replace(reader.source, sleep=sleep)
        reader.simulator.faults = [
            SlackFault(kind="ratelimited", method="conversations.replies", retry_after=3_600)
        ]
        seen = await seen_before(reader, limited, wanted=4)
    assert seen == {"C2", "C3", "C4", "C5"}


async def test_channel_that_hangs_delays_no_other() -> None:
    """A channel whose call gets no answer keeps its place; all others are read meanwhile."""
    workspace = workspace_of(1)
    for number in range(2, 12):
        workspace.add_channel(f"C{number}", f"c{number}")
        workspace.post(f"C{number}", "hello", ts=f"{workspace.now - 7_200}.000000")
    async with reading(workspace) as reader:
        reader.simulator.faults = [SlackFault(kind="hang", channel="C1")]
        seen = await seen_before(reader, reader.simulator.released, wanted=10)
        assert seen == {f"C{number}" for number in range(2, 12)}
        assert "C1/d/2026-01-05" in reader.documents  # once it was answered


async def seen_before(reader: Reader, event: asyncio.Event, *, wanted: int) -> set[str]:
    """Fetch, and set an event when so many channels were seen, which are returned."""
    seen: set[str] = set()
    async for page in reader.source.fetch(""):
        reader.apply(page)
        if not event.is_set():
            seen = {each.partition("/")[0] for each in reader.documents}
            if len(seen) == wanted:
                event.set()
    return seen


async def test_channel_that_fails_is_reported_and_the_others_are_read() -> None:
    """Errors of the server in one channel do not end the fetch, as those of all channels do."""
    workspace = workspace_of(1)
    for number in range(2, 8):
        workspace.add_channel(f"C{number}", f"c{number}")
        for day in range(6):
            workspace.post(f"C{number}", "hello", ts=f"{workspace.now - 7_200 - day * DAY}.000000")
    async with reading(workspace, page=1) as reader:
        reader.simulator.faults = [SlackFault(kind="gateway", channel="C1", times=6)]
        fetched: list[Page] = await reader.fetch()
        (said,) = problems(fetched)
        assert said.startswith("#ops: slack at 127.0.0.1")
        assert said.endswith("status 502; what is indexed of it is kept, and the next run tries again")
        assert fetched[-1].complete
        assert fetched[-1].within == tuple(f"C{number}/" for number in range(2, 8))
        assert {each.partition("/")[0] for each in reader.documents} == {f"C{n}" for n in range(2, 8)}
        await reader.fetch()
    assert "C1/d/2026-01-05" in reader.documents


@pytest.mark.parametrize(
    ("whole", "lower", "calls", "words"),
    [
        (False, 9_001, (2, 0, 0), "about 18 calls left, 18 minutes"),
        (False, 9_001, (2, 7, 3), "about 111 calls left, 93 minutes"),
        (False, 9_991, (2, 0, 0), "about 1,998 calls left, 33 hours"),
        (False, 10_001, (0, 0, 0), "about 1 call left, 1 minute"),
        (True, 0, (2, 0, 0), ""),
    ],
)
def test_estimate_follows_the_calls_and_the_time_they_covered(
    *, whole: bool, lower: int, calls: tuple[int, int, int], words: str
) -> None:
    one = ChannelReading(
        api=None,  # type: ignore[arg-type]  # nothing is asked
        channel=Channel(id="C1", label="#ops"),
        position=Position(whole=whole),
        end=10_001,
        lookback=0,
        page=1,
        base="",
        created=1,
        began=10_001,
        lower=lower,
        history_calls=calls[0],
        thread_calls=calls[1],
        waiting=calls[2],
    )
    assert in_words([one], 60) == words


async def test_pacing_calls_of_one_method_wait_in_turn() -> None:
    """In slow mode, calls that come at once are a minute apart, and another method does not wait."""
    now, slept = [0.0], []

    async def sleep(seconds: float) -> None:
        slept.append(seconds)
        now[0] += seconds

    pacing = Pacing(sleep=sleep, monotonic=lambda: now[0])
    await pacing.turn("history")
    pacing.answered("history", 15)
    pacing.limited("history", 60)
    await asyncio.gather(*(pacing.turn("history") for _ in range(3)), pacing.turn("replies"))
    assert slept == [60.0] * 3
    assert pacing.slow
    pacing.answered("history", 16)
    assert not pacing.slow
