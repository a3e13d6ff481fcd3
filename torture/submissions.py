"""One trial of the batch lane: finders, submitters and pollers, several at once, killed at random moments.

Meanwhile the provider has faults. In the end the index equals that of an undisturbed project, no submission is live,
no text was paid for twice, and the ledger accounts for everything that was paid.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import shutil
import signal
import time
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from tests.support.processes.killing import Project
from tests.support.processes.running import Forked, Ran, call, start
from tests.support.servers.s3 import variables

from flowbed import telemetry
from flowbed.testing.simulators import Fault
from flowbed.testing.simulators.serving.process import SimulatorProcess
from torture.documents import edit
from torture.kills import BUCKET, KILLED, Moment, Outcome, Wrong, compared

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

QUEUE_TOKENS = 700  # about a third of what is found in a turn
JOB_SECONDS = 0.3
TURNS_LEFT = 20  # runs until nothing is left to do: more would be an endless loop
USUAL_SECONDS = 1.0  # seconds that a command takes, until measured
# How far the clock moves each turn: by then claims of dead workers have expired, and postponed work is due.
TURN = 66_000_000  # µs

# Faults of the provider. None of them causes payment for a text whose vector never arrives.
FAULTS = (
    Fault(kind="shuffled"),
    Fault(kind="doubled_lines", share=0.2),
    Fault(kind="cut", path="/v1/batches", probability=0.5),
    Fault(kind="cut", path="/v1/files", probability=0.3),
    Fault(kind="rate_limited", path="/v1/batches", probability=0.4, retry_after=0.01),
    Fault(kind="rate_limited", path="/v1/files", probability=0.4, retry_after=0.01),
    Fault(kind="error", path="/v1/batches*", probability=0.2, status=503),
    Fault(kind="truncated", path="/v1/files/*/content", probability=0.5),
    Fault(kind="slow", path="/v1/files*", delay=0.3),
    Fault(kind="expired", share=0.4, probability=0.5),
    Fault(kind="failed_lines", share=0.1, status=500, probability=0.5),
    Fault(kind="shuffled", delay=2.0),
)
SECONDS = {"init": 0.05, "add": 0.1}

FINDING = (telemetry.CHUNKS_CLAIMED, telemetry.SUBMISSION_WRITTEN, telemetry.SUBMISSION_RECORDED)
SUBMITTING = (telemetry.SUBMISSION_BEGUN, telemetry.JOB_MADE, telemetry.SUBMISSION_SUBMITTED)
POLLING = (
    telemetry.ANSWERS_COPIED,
    telemetry.DELTA_WRITTEN,
    telemetry.RUN_RECORDED,
    telemetry.INDEX_MERGED,
    telemetry.RUN_COMMITTED,
    telemetry.SUBMISSION_ENDED,
)
STEPS = {
    "find": ("submissions", "find"),
    "submit": ("submissions", "submit"),
    "poll": ("submissions", "poll"),
    "run": ("run", "--lane", "batch", "--allow-deletes"),
    # The first text would exceed the budget, so nothing is submitted.
    "fetch": ("run", "--lane", "batch", "--allow-deletes", "--budget", "0"),
    "now": ("run", "--lane", "realtime", "--allow-deletes"),
}
POINTS = {
    "find": FINDING,
    "submit": SUBMITTING,
    "poll": POLLING,
    "run": (*telemetry.SUBMISSION_FAILPOINTS, telemetry.BATCH_WRITTEN, telemetry.FETCH_SWAPPED),
    "fetch": (*telemetry.FAILPOINTS[:4], *POLLING),
    "now": (*POLLING, *telemetry.FAILPOINTS),
}
# The steps of a turn, run at once; `now` runs alone, since it may send what a finder has just taken.
TURNS: tuple[tuple[tuple[str, ...], int], ...] = (
    (("run",), 4),
    (("find", "find"), 2),
    (("submit", "submit"), 2),
    (("poll", "poll"), 3),
    (("find", "submit", "poll"), 3),
    (("run", "run", "poll"), 3),
    (("run", "find", "submit", "poll"), 2),
    (("cancel", "poll"), 1),
    (("now",), 2),
)


class SubmissionsTrial:
    """A trial determined by its seed, apart from the exact moments at which processes are killed."""

    def __init__(self, seed: int, folder: Path, *, kills: int, s3: str = "") -> None:
        """Kill at least `kills` commands, in `folder`; with an address in `s3`, the store is there."""
        self.outcome = Outcome()
        self._chance = random.Random(seed)
        self._seed, self._wanted, self._s3 = seed, kills, s3
        self._folder, self._logs = folder, folder / "logs"
        self._seconds = dict(SECONDS)
        self._ahead = 0  # µs that the commands' clock is ahead of the real one; it never goes back
        self._turn = 0
        # On the realtime lane, requests in flight at a kill are paid for again.
        self._both_lanes = seed % 2 == 0

    async def carry_out(self) -> Outcome:
        """Run the whole trial; failures are returned, not raised."""
        began = time.monotonic()
        self._logs.mkdir(parents=True)
        (self._folder / "project").mkdir()
        self._project = Project(self._folder / "project")
        with contextlib.ExitStack() as opened:
            self._provider = opened.enter_context(
                SimulatorProcess("openai", options={"batch_seconds": JOB_SECONDS})
            )
            self._elsewhere = opened.enter_context(SimulatorProcess("openai"))
            try:
                await self._begin()
                while self.outcome.kills < self._wanted:
                    await self._take_turn()
                await self._end()
            except (Wrong, TimeoutError, RuntimeError) as error:
                self.outcome.wrong = str(error)
        self.outcome.seconds = time.monotonic() - began
        return self.outcome

    async def _begin(self) -> None:
        self._edit()
        (self._project.folder / "flowbed.toml").write_text(
            'model = "openai:text-embedding-3-small"\n[providers.openai]\n'
            f'base_url = "{self._provider.url}/v1"\napi_key = "any"\nbatch_tokens = "{QUEUE_TOKENS}"\n',
            "utf-8",
        )
        self._project.write_source("docs", "files", "docs")
        self._project.write_source("notes", "jsonl", "notes.jsonl")

    def _edit(self) -> None:
        self._turn += 1
        edit(self._project, self._chance, self._turn, repeats=True)

    async def _take_turn(self) -> None:
        """Change the documents, and run some steps at once, at a provider with other faults than before."""
        self._ahead += TURN
        if edited := self._chance.random() < 0.5:
            self._edit()
        faults = self._chance.sample(FAULTS, self._chance.randint(0, 3))
        self._provider.order(*faults, seed=self._chance.getrandbits(30))
        turns = [(each, weight) for each, weight in TURNS if each != ("now",) or self._both_lanes]
        (steps,) = self._chance.choices([each for each, _ in turns], [weight for _, weight in turns])
        self.outcome.story.append(f"    turn: {', '.join(steps)}; {', '.join(each.kind for each in faults)}")
        if edited and "run" not in steps and "now" not in steps:
            await self._give("fetch")
        await asyncio.gather(*[self._give(each) for each in steps])

    async def _give(self, step: str) -> None:
        """Run a step once; it is killed, or ends by itself with nothing worse than the provider's answer."""
        arguments = STEPS.get(step) or await self._cancelling()
        wanted = step in POINTS and self.outcome.kills < self._wanted
        ran = await self._ended(
            step, arguments, self._moment(step) if wanted and self._chance.random() < KILLED else None
        )
        if ran.returncode == -signal.SIGKILL:
            self.outcome.kills += 1
        elif ran.returncode not in {0, 1} or "Traceback" in ran.stderr:
            raise Wrong(
                f"{' '.join(arguments)} ended with {ran.returncode}: {ran.stdout}{ran.stderr[-3000:]}"
            )

    async def _cancelling(self) -> Sequence[str]:
        live = (await self._ended("list", ("submissions", "list"), None)).report["submissions"]
        return ("submissions", "cancel", self._chance.choice(live)["id"]) if live else ("submissions", "list")

    async def _end(self) -> None:
        """Remove the provider's faults, run until nothing is left, and check the result."""
        self._provider.order()
        self._provider.advance(10.0)
        for _ in range(TURNS_LEFT):
            self._ahead += TURN
            report = await self._report(*STEPS["run"])
            if not report["waiting"] and not report["submissions"] and not report["failed"]:
                break
            await asyncio.sleep(JOB_SECONDS)
        status = await self._report("status")
        live = (await self._report("submissions", "list"))["submissions"]
        if set(status["chunks"]) - {"SUCCESS"} or status["dead_letters"] or status["pending"] or live:
            raise Wrong(f"something is not done: {status}, live: {live}")
        verified = await self._report("verify")
        if any(each["faults"] for each in verified["collections"].values()):
            raise Wrong(f"verify finds faults: {verified}")
        await self._compare()
        await self._settle()

    async def _settle(self) -> None:
        """Compare what was paid with what the ledger says."""
        totals = self._provider.totals()
        self.outcome.twice = totals.billed_again
        if totals.billed_again > self.outcome.in_flight:
            again = self._provider.billed_again()
            raise Wrong(f"{again} were paid for again, and {self.outcome.in_flight} texts were in flight")
        recorded = (await self._report("status", "--cost"))["spending"]["billed"]
        if recorded > totals.billed or (recorded != totals.billed and not self._both_lanes):
            raise Wrong(f"{totals.billed} tokens were billed, but the ledger recorded {recorded}")

    async def _compare(self) -> None:
        """Compare the index with that of a new project on the realtime lane of another provider."""
        fresh = self._folder / "fresh"
        shutil.copytree(self._project.folder, fresh, ignore=shutil.ignore_patterns(".flowbed"))
        settings = (
            (fresh / "flowbed.toml").read_text("utf-8").replace(self._provider.url, self._elsewhere.url)
        )
        (fresh / "flowbed.toml").write_text(settings, "utf-8")
        found = await call(
            compared,
            *(self._project.folder, fresh),
            variables=self._variables(),
            log=self._logs / "compare",
        )
        self.outcome.rows, self.outcome.lost, self.outcome.doubled = (
            found[name] for name in ("rows", "lost", "doubled")
        )
        if found["differences"]:
            raise Wrong(f"the index is not what it would be: {found['differences']}")

    async def _report(self, *arguments: str) -> dict[str, Any]:
        ran = await self._ended(arguments[0], arguments, None)
        if ran.returncode not in {0, 1}:
            raise Wrong(
                f"{' '.join(arguments)} ended with {ran.returncode}: {ran.stdout}{ran.stderr[-3000:]}"
            )
        return ran.report

    async def _ended(self, step: str, arguments: Sequence[str], moment: Moment | None) -> Ran:
        """Run a command once, and wait for its end or its kill."""
        self.outcome.commands += 1
        number = self.outcome.commands
        process = start(
            *(*arguments, "--json", "-v"),
            folder=self._project.folder,
            variables=self._variables(),
            point=moment.point if moment else "",
            ahead=self._ahead,
            log=self._logs / f"{number:03d}-{step}",
        )
        began = time.monotonic()
        killing = asyncio.create_task(_kill(process, moment))
        ran = await process.ended()
        killing.cancel()
        await asyncio.gather(killing, return_exceptions=True)
        if ran.returncode != -signal.SIGKILL:
            self._seconds[step] = time.monotonic() - began
        if step == "now":
            # Vectors cached before that came by the batch lane.
            _, sent, log = ran.stderr.partition(f" {telemetry.REQUEST_SENT} ")
            self.outcome.in_flight += replace(ran, stderr=sent[1:] + log).in_flight
        self.outcome.story.append(
            f"{number:03d} {' '.join(arguments)}{f' ({moment})' if moment else ''}: {ran.returncode}"
        )
        return ran

    def _moment(self, step: str) -> Moment:
        if self._chance.random() < 0.5:
            return Moment(point=f"{self._chance.choice(POINTS[step])}:{self._chance.randint(1, 2)}")
        return Moment(seconds=self._chance.uniform(0, self._seconds.get(step, USUAL_SECONDS)))

    def _variables(self) -> dict[str, str]:
        if not self._s3:
            return {}
        return variables(self._s3) | {"FLOWBED_STORE": f"s3://{BUCKET}/submissions-{self._seed}"}


async def _kill(process: Forked, moment: Moment | None) -> None:
    """Kill a process when its moment comes; at a named point, it kills itself."""
    if moment is not None and not moment.point:
        await asyncio.sleep(moment.seconds)
        process.kill()
