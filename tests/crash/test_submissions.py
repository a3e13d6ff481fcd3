"""The steps of the batch lane, killed after each change they make and at random moments, and repeated."""

from __future__ import annotations

import asyncio
import random
import shutil
import signal
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import pytest
from tests.support.processes.killing import Project
from tests.support.processes.running import start

import flowbed
from flowbed import telemetry
from flowbed.lanes.claims import CLAIM
from flowbed.testing.index import assert_same, contents_of
from flowbed.testing.simulators.faults import Fault
from flowbed.testing.simulators.serving.process import SimulatorProcess
from flowbed.wiring import process

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.support.processes.running import Forked

    from flowbed.bed import Flowbed
    from flowbed.testing.index import Contents

NOTES, TEXTS, FILES = 60, 50, 10
WORDS = ("amber", "basin", "cedar", "ember", "fjord", "grove", "heath", "islet", "jetty", "knoll", "weir")
# So few that the texts take several submissions, one after the other.
QUEUE_TOKENS = 500

# The points that each step passes; only a step that waits submits and polls a second submission.
STEPS = {
    "find": (telemetry.CHUNKS_CLAIMED, telemetry.SUBMISSION_WRITTEN, telemetry.SUBMISSION_RECORDED),
    "submit": (telemetry.SUBMISSION_BEGUN, telemetry.JOB_MADE, telemetry.SUBMISSION_SUBMITTED),
    "poll": (
        telemetry.ANSWERS_COPIED,
        telemetry.DELTA_WRITTEN,
        telemetry.RUN_RECORDED,
        telemetry.INDEX_MERGED,
        telemetry.RUN_COMMITTED,
        telemetry.SUBMISSION_ENDED,
    ),
}
STEP_OF = {point: step for step, points in STEPS.items() for point in points}
# One claim takes all waiting chunks, up to thousands; all other points are passed several times.
ONCE = {telemetry.CHUNKS_CLAIMED}
# Each point once, the first and the second time in turn; the other time in the long form.
MOMENTS = [
    pytest.param(
        point,
        nth,
        "steps" if nth == 1 else "run",
        marks=[pytest.mark.long] if (number + nth) % 2 and point not in ONCE else [],
    )
    for number, point in enumerate(telemetry.SUBMISSION_FAILPOINTS)
    for nth in (1, 2)
    if nth == 1 or point not in ONCE
]
TRIALS, KILLS = 5, 3


@dataclass(frozen=True)
class Lane:
    """A project whose texts go to a simulated Batch API."""

    folder: Path
    provider: SimulatorProcess

    def start(self, *arguments: str, at: str = "") -> Forked:
        """Start a command, which the named point kills."""
        return start(*arguments, "--json", "-v", folder=self.folder, variables={}, point=at)

    async def finish(self, again: Literal["steps", "run"]) -> None:
        """Repeat the steps until nothing is left to do."""
        async with await flowbed.aopen(self.folder) as bed:
            if again == "run":
                await bed.run(lane="batch", wait=True)
                return
            for _ in range(10):
                await bed.find_unembedded()
                await bed.submit()
                await bed.poll()
                if not await bed.submissions() and set((await bed.status()).chunks) == {"SUCCESS"}:
                    return
                await asyncio.sleep(0.05)

    async def assert_as_if_nothing_had_happened(self, wanted: Contents) -> None:
        """Check that everything is in the index, that nothing is left to do, and that each text was paid for once."""
        async with await flowbed.aopen(self.folder) as bed:
            assert await _left(bed) == ({"SUCCESS": NOTES + FILES}, [], [])
            totals = self.provider.totals()
            assert (totals.billed_texts, totals.billed_again) == (TEXTS + FILES, 0)
            assert [(each.name, each.billed) for each in await bed.spending("lane")] == [
                ("batch", totals.billed)
            ]
        assert_same(contents_of(self.folder), wanted)


def sentence(chance: random.Random, words: int) -> str:
    """Return a random sentence that ends in a unique number."""
    return f"{' '.join(chance.choices(WORDS, k=words))} {chance.getrandbits(40)}"


async def _left(bed: Flowbed) -> tuple[dict[str, int], list[str], list[str]]:
    letters = [letter.reason for letter in await bed.dead_letters()]
    return dict((await bed.status()).chunks), [row.id for row in await bed.submissions()], letters


@pytest.fixture(scope="module")
def provider() -> Iterator[SimulatorProcess]:
    """Return a provider, whose account is reset for each lane."""
    with SimulatorProcess("openai") as simulator:
        yield simulator


@pytest.fixture(scope="module")
def fetched(provider: SimulatorProcess, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a project that was fetched and of which nothing was embedded."""
    project = Project(tmp_path_factory.mktemp("fetched") / "project")
    project.folder.mkdir()
    chance = random.Random(5)
    settings = (
        f'model = "openai:text-embedding-3-small"\n[providers.openai]\nbase_url = "{provider.url}/v1"\n'
    )
    (project.folder / "flowbed.toml").write_text(
        f'{settings}api_key = "any"\nbatch_tokens = "{QUEUE_TOKENS}"\n', "utf-8"
    )
    texts = [sentence(chance, 8) for _ in range(TEXTS)]
    project.write_lines(
        "notes.jsonl", [{"id": f"n{number}", "text": texts[number % TEXTS]} for number in range(NOTES)]
    )
    for number in range(FILES):
        project.write_text(f"docs/{number}.md", sentence(chance, 30))
    project.write_source("notes", "jsonl", "notes.jsonl")
    project.write_source("docs", "files", "docs")
    with flowbed.open(project.folder) as bed:
        bed.run(limit=0)
        assert dict(bed.status().chunks) == {"NONE": NOTES + FILES}
    return project.folder


@pytest.fixture(scope="module")
def realtime(fetched: Path, tmp_path_factory: pytest.TempPathFactory) -> Contents:
    """Return the index that the realtime lane makes."""
    folder = tmp_path_factory.mktemp("realtime") / "project"
    shutil.copytree(fetched, folder)
    with flowbed.open(folder) as bed:
        assert bed.run(lane="realtime").failed == 0
    return contents_of(folder)


@pytest.fixture(scope="module")
def seconds(fetched: Path, provider: SimulatorProcess, tmp_path_factory: pytest.TempPathFactory) -> float:
    """Return how long an undisturbed run takes."""
    folder = tmp_path_factory.mktemp("usual") / "project"
    shutil.copytree(fetched, folder)
    began = time.monotonic()
    ran = Lane(folder, provider).start("run", "--lane", "batch", "--wait").wait()
    assert ran.returncode == 0, ran.stderr
    return time.monotonic() - began


@pytest.fixture
def lane(
    fetched: Path,
    realtime: Contents,
    seconds: float,
    provider: SimulatorProcess,
    tmp_path: Path,
) -> Lane:
    """Return a project whose texts were not sent yet."""
    shutil.copytree(fetched, tmp_path / "project")
    provider.forget()
    provider.order()
    return Lane(tmp_path / "project", provider)


@pytest.mark.parametrize(("point", "nth", "again"), MOMENTS)
async def test_step_killed_at_a_failpoint_is_completed_by_the_next(
    point: str,
    nth: int,
    again: Literal["steps", "run"],
    lane: Lane,
    realtime: Contents,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The index is that of the realtime lane, and each text is paid for once.

    A process that can tell that the killed one is dead takes its work at once; the steps cannot here, and wait for its
    claims to expire.
    """
    step = STEP_OF[point] if nth == 1 or STEP_OF[point] == "find" else "poll"
    for each in STEPS:
        arguments = ("submissions", each, *(["--wait"] if each == "poll" else []))
        killed = each == step
        ran = await lane.start(*arguments, at=f"{point}:{nth}" if killed else "").ended()
        assert ran.returncode == (-signal.SIGKILL if killed else 0), ran.stderr
        if killed:
            break
    if again == "steps":
        clock = process.now
        monkeypatch.setattr(process, "dead", lambda _: False)
        monkeypatch.setattr(process, "now", lambda: clock() + CLAIM + 5_000_000)
    await lane.finish(again)
    await lane.assert_as_if_nothing_had_happened(realtime)


@pytest.mark.parametrize(
    "seed", [0, *(pytest.param(seed, marks=pytest.mark.long) for seed in range(1, TRIALS))]
)
async def test_runs_killed_at_random_moments_pay_for_no_text_twice(
    seed: int, lane: Lane, realtime: Contents, seconds: float
) -> None:
    """Three runs are killed, one after the other, and nothing is lost."""
    chance = random.Random(seed)
    for _ in range(KILLS):
        running = lane.start("run", "--lane", "batch", "--wait")
        await asyncio.to_thread(running.kill_after, chance.uniform(0, seconds))
        await running.ended()
    await lane.finish("run")
    await lane.assert_as_if_nothing_had_happened(realtime)


async def test_submission_of_dead_poll_stays_live_until_its_chunk_claims_expire(
    lane: Lane, realtime: Contents, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where only the claim on the submission has expired, the next poll leaves it live, and the one after ends it."""
    settings = lane.folder / "flowbed.toml"
    settings.write_text(f"vector_cache_mb = 0\n{settings.read_text('utf-8')}", "utf-8")
    # The slow download comes between the claim on the submission and those on its chunks.
    lane.provider.order(Fault(kind="slow", path="/v1/files/*/content", calls=(1,), delay=2.0))
    for step, at in (("find", ""), ("submit", ""), ("poll", f"{telemetry.DELTA_WRITTEN}:1")):
        await lane.start("submissions", step, at=at).ended()
    async with await flowbed.aopen(lane.folder) as bed:
        first, *_ = await bed.submissions()
        (held, *_), *_ = [page async for page in bed.ledger.chunks.submitted(first.id)]
        assert first.worker == held.worker
        assert first.until + 1_000_000 < held.until
        # As on another machine, which cannot tell that the process is dead.
        monkeypatch.setattr(process, "dead", lambda _: False)
        monkeypatch.setattr(process, "now", lambda: first.until + 500_000)
        assert first.id in {row.id for row in (await bed.poll()).pending}
        monkeypatch.setattr(process, "now", lambda: held.until + CLAIM)
    await lane.finish("steps")
    await lane.assert_as_if_nothing_had_happened(realtime)


async def test_submission_submitted_during_a_poll_is_not_treated_as_lost(
    lane: Lane, realtime: Contents
) -> None:
    """A poll that read a submission before it was submitted leaves it to the next poll."""
    async with await flowbed.aopen(lane.folder) as bed, await flowbed.aopen(lane.folder) as other:
        await bed.find_unembedded(limit=3)
        await other.submit()  # keeps its model open from here on
        (late,) = (await bed.find_unembedded(limit=3)).submissions
        lane.provider.order(Fault(kind="slow", path="/v1/batches/*", delay=1.2))

        async def hand_in() -> None:
            await asyncio.sleep(0.3)
            assert (await other.submit()).submitted == [late]

        polled, _ = await asyncio.gather(bed.poll(), hand_in())
        assert [row.id for row in polled.pending] == [late]
    lane.provider.order()
    await lane.finish("run")
    await lane.assert_as_if_nothing_had_happened(realtime)
