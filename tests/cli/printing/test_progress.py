"""What a run shows of its progress, from the points that it reports."""

from __future__ import annotations

import heapq
from dataclasses import dataclass, field
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import pytest

from flowbed import telemetry
from flowbed.cli.printing.progress import Progress, duration
from flowbed.lanes.requests import cut

if TYPE_CHECKING:
    from collections.abc import Iterator

TEXTS, CONCURRENCY = 5_000, 10


@dataclass
class Watched:
    """A progress, and the clock that it reads."""

    now: float = 0.0
    progress: Progress = field(init=False)

    def __post_init__(self) -> None:
        self.progress = Progress(lambda: self.now)

    def see(self, point: str, **facts: Any) -> None:
        """Report a point."""
        self.progress.take(point, facts)


def parallel(texts: int, free: float, now: float) -> tuple[float, float]:
    """Answer each request by itself, the later the more texts it has."""
    return now + 0.2 + 0.02 * texts, 0.0


def serial(texts: int, free: float, now: float) -> tuple[float, float]:
    """Answer one request after the other."""
    end = max(free, now) + 0.002 * texts
    return end, end


def constant(texts: int, free: float, now: float) -> tuple[float, float]:
    """Answer after the same time, however many texts there are."""
    return now + 5.0, 0.0


def answers(provider: Any, concurrency: int) -> Iterator[tuple[float, int, float]]:
    """Give the time of each answer, its texts and its seconds, of a run with so many requests in flight."""
    waiting = iter([part.stop - part.start for part in cut([slice(0, TEXTS)], concurrency=concurrency)])
    flying: list[tuple[float, int, float]] = []
    free = now = 0.0
    while True:
        while len(flying) < concurrency and (texts := next(waiting, None)) is not None:
            end, free = provider(texts, free, now)
            heapq.heappush(flying, (end, texts, end - now))
        if not flying:
            return
        now, texts, seconds = heapq.heappop(flying)
        yield now, texts, seconds


@pytest.mark.parametrize("concurrency", [1, 3, 10])
@pytest.mark.parametrize("provider", [parallel, serial, constant])
def test_progress_after_a_tenth_estimates_the_time_left_within_a_factor_of_two(
    provider: Any, concurrency: int
) -> None:
    watched = Watched()
    watched.see(telemetry.STAGE, stage="embed", total=TEXTS)
    answered = [*answers(provider, concurrency)]
    end = answered[-1][0]
    checked = 0
    for part in (TEXTS / 10, TEXTS / 2):
        # What arrives at the same moment is seen together.
        while watched.progress.done < part or answered[0][0] == watched.now:
            watched.now, texts, seconds = answered.pop(0)
            watched.see(
                telemetry.PROGRESS, stage="embed", done=texts, seconds=seconds, concurrency=concurrency
            )
        left = watched.progress.seconds_left
        assert left is not None
        assert (end - watched.now) / 2 <= left <= (end - watched.now) * 2
        checked += 1
    assert checked == 2


@pytest.mark.parametrize("provider", [parallel, serial])
def test_progress_answers_are_spread_evenly_and_each_moves_the_count(provider: Any) -> None:
    """From the first answer on, no pause is longer than a fifteenth of the whole time."""
    times = [at for at, _, _ in answers(provider, CONCURRENCY)]
    assert len(times) >= 40
    assert times[0] < times[-1] / 15
    assert max(after - before for before, after in pairwise(times)) < times[-1] / 15


def test_progress_embedding_while_fetching_counts_what_is_embedded() -> None:
    watched = Watched()
    watched.see(telemetry.STAGE, stage="fetch", source="r")
    watched.see(telemetry.PROGRESS, stage="fetch", source="r", done=2_000, chunks=2_000)
    assert watched.progress.line == "fetching r: 2,000 documents, 2,000 chunks"
    watched.see(telemetry.PROGRESS, stage="embed", done=0)
    watched.now = 2.0
    watched.see(telemetry.PROGRESS, stage="embed", done=100, seconds=2.0, concurrency=1)
    assert watched.progress.line == "embedding: 100 of 2,000 chunks (2,000 documents fetched so far), 50/s"
    watched.see(telemetry.PROGRESS, stage="fetch", source="r", done=7_000, chunks=7_000)
    watched.see(telemetry.FETCHED)
    assert watched.progress.line == "embedding: 100 of 9,000 chunks, 50/s, 3 min left"
    watched.see(telemetry.STAGE, stage="embed", total=9_500)  # with what an earlier run left
    assert watched.progress.line == "embedding: 100 of 9,500 chunks, 50/s, 3 min left"


def test_progress_second_source_fetched_while_embedding_adds_to_the_total() -> None:
    watched = Watched()
    for source in ("a", "b"):
        watched.see(telemetry.STAGE, stage="fetch", source=source)
        watched.see(telemetry.PROGRESS, stage="fetch", source=source, done=10, chunks=30)
        watched.see(telemetry.PROGRESS, stage="embed", done=5, seconds=1.0, concurrency=1)
    watched.see(telemetry.FETCHED)
    assert (watched.progress.stage, watched.progress.done, watched.progress.total) == ("embedding", 10, 60)


def test_progress_counted_at_once_has_no_rate() -> None:
    """Cached vectors, and what was done before a stage was shown, say nothing of the time that is left."""
    watched = Watched()
    watched.see(telemetry.STAGE, stage="embed", total=10_000)
    watched.see(telemetry.PROGRESS, stage="embed", done=9_000)
    watched.now = 0.000_01
    watched.see(telemetry.PROGRESS, stage="embed", done=100, seconds=0.000_01, concurrency=1)
    assert watched.progress.line == "embedding: 9,100 of 10,000 chunks"
    watched.now = 10.0
    watched.see(telemetry.PROGRESS, stage="embed", done=100, seconds=9.0, concurrency=1)
    assert watched.progress.line.startswith("embedding: 9,200 of 10,000 chunks, 21/s, 38 s left")


def test_progress_retry_says_how_long_it_waits_and_why() -> None:
    watched = Watched()
    watched.see(telemetry.STAGE, stage="embed", total=10)
    reason = "openai at api.openai.com answered 429: slow down"
    watched.see(telemetry.RETRIED, reason=reason, seconds=20.0, limited=True)
    assert watched.progress.waiting == f"waiting 20 s: rate limited: {reason}"
    watched.now = 15.0
    assert watched.progress.waiting.startswith("waiting 5 s: ")
    watched.see(telemetry.PROGRESS, stage="embed", done=1, seconds=20.0, concurrency=1)
    assert watched.progress.waiting == ""
    watched.see(telemetry.RETRIED, reason="x" * 5_000, seconds=None, limited=False)
    assert watched.progress.waiting == f"trying again: {'x' * 160}..."


@pytest.mark.parametrize(
    ("seconds", "said"), [(0.4, "0 s"), (99, "99 s"), (180, "3 min"), (5_000, "83 min"), (7_200, "2.0 h")]
)
def test_duration_is_as_exact_as_an_estimate(seconds: float, said: str) -> None:
    assert duration(seconds) == said
