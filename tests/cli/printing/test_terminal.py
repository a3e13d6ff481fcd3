"""What a person sees on a terminal while a provider takes its time."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

import pytest
from tests.support.processes.terminal import on_terminal

from flowbed.testing.simulators import Fault, OpenAI, Simulator
from flowbed.testing.simulators.serving.running import running_thread

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.support.processes.terminal import Shown

SETTINGS = """
model = "openai:text-embedding-3-small"
concurrency = {concurrency}
[providers.openai]
base_url = "{url}/v1"
api_key = "simulated"
[sources.r]
kind = "jsonl"
location = "r.jsonl"
"""
DECORATION = re.compile(r"\x1b\[[0-?]*[ -/]*[@-~]|[━╺╸]")
COUNT = re.compile(r"embedding: +([\d,]+) of ([\d,]+) chunks +(?:[\d,.]+/s, (\d+) s left)?")


@dataclass(frozen=True)
class Count:
    """A count that was shown `at` seconds after the start, and the estimate of the seconds left beside it."""

    at: float
    done: int
    total: int
    left: int | None


def run(
    folder: Path,
    simulator: Simulator,
    records: int,
    *,
    concurrency: int = 10,
    interrupt: Callable[[], bool] | None = None,
) -> Shown:
    """Run a project with so many records, each a chunk."""
    lines = [json.dumps({"id": n, "text": f"record {n} says {n * 7_919 % 10_007}"}) for n in range(records)]
    (folder / "r.jsonl").write_text("\n".join(lines))
    with running_thread(simulator) as url:
        (folder / "flowbed.toml").write_text(SETTINGS.format(url=url, concurrency=concurrency))
        return on_terminal("run", "--yes", folder=folder, interrupt=interrupt)


def counts(shown: Shown) -> list[Count]:
    """Give each count that was shown."""
    return [
        Count(at, int(done.replace(",", "")), int(total.replace(",", "")), int(left) if left else None)
        for at, piece in shown.pieces
        for done, total, left in COUNT.findall(DECORATION.sub("", piece.decode(errors="replace")))
    ]


def test_run_slow_provider_shows_a_count_that_moves_with_the_answers(tmp_path: Path) -> None:
    """Most answers are seen by themselves, from the first on, and the total is that of the source."""
    simulator = Simulator(OpenAI(), faults=[Fault(kind="slow", delay_per_text=0.01)])
    shown = run(tmp_path, simulator, 1_500)
    assert shown.status == 0, shown.text
    found = counts(shown)
    seen = sorted({each.done for each in found})
    requests = simulator.account.totals().requests
    assert requests >= 20
    assert len(seen) > requests / 3, seen
    assert min(each for each in seen if each) < 200
    assert {each.total for each in found} <= {1_000, 1_500}  # the fetch ends while the first are embedded
    assert any(each.left for each in found)


@pytest.mark.long
def test_run_slow_provider_count_moves_and_time_left_is_about_right(
    tmp_path: Path,
) -> None:
    simulator = Simulator(OpenAI(), faults=[Fault(kind="slow", delay_per_text=0.1)])  # about a minute
    shown = run(tmp_path, simulator, 5_000)
    found = counts(shown)
    moved = [after.at for before, after in pairwise(found) if after.done > before.done]
    assert max(after - before for before, after in pairwise(moved)) < 3
    first = next(each for each in found if each.done >= 500)
    assert first.left is not None
    left = moved[-1] - first.at
    assert left / 2 <= first.left <= left * 2


def test_run_rate_limited_says_how_long_it_waits_and_for_whom(tmp_path: Path) -> None:
    fault = Fault(kind="rate_limited", calls=(1,), retry_after=2.0)
    shown = run(tmp_path, Simulator(OpenAI(), faults=[fault]), 3)
    assert shown.status == 0, shown.text
    assert re.search(r"waiting [12] s: rate limited: openai at 127\.0\.0\.1:\d+ answered 429", shown.text)


@pytest.mark.usefixtures("interruptible")
def test_run_interrupted_keeps_what_was_answered(tmp_path: Path) -> None:
    """The next run pays again for no more than the requests that were in flight."""
    simulator = Simulator(OpenAI(), faults=[Fault(kind="slow", delay_per_text=0.02)])
    shown = run(
        tmp_path,
        simulator,
        600,
        concurrency=2,
        interrupt=lambda: simulator.account.totals().billed_texts >= 100,
    )
    assert shown.status == 130, shown.text
    assert "interrupted; nothing is lost" in shown.text
    assert simulator.account.totals().billed_texts < 550
    simulator.order()
    assert run(tmp_path, simulator, 600, concurrency=2).status == 0
    totals = simulator.account.totals()
    assert totals.billed_texts - 600 <= 2 * 64
