"""One trial: a project whose documents change, and whose commands are killed at random moments and repeated.

In the end its index must equal that of an undisturbed project, with nothing left to do or to fix.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import shlex
import shutil
import signal
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from tests.support.counting import CountingProcess
from tests.support.processes.killing import Project
from tests.support.processes.running import Forked, Ran, call, respond, start
from tests.support.servers.s3 import variables

import flowbed
from flowbed import telemetry
from flowbed.testing.index import contents_of, differences
from flowbed.testing.s3proxy import (
    CONFLICT,
    CUT,
    INTERNAL_ERROR,
    SLOW_DOWN,
    S3Fault,
    S3Proxy,
)
from torture.documents import edit

if TYPE_CHECKING:
    from pathlib import Path

BUCKET = "torture"
ITEMS = 8  # texts per request: several requests in each run
DELAY = 0.05  # seconds that a provider takes
# The share of a trial's commands that are killed and repeated, and the share of runs that have another one beside them.
KILLED, CROWDED = 0.65, 0.2
TRIES = 40  # of one command, over S3 with its faults: more would be an endless loop
SECONDS = {"init": 0.05, "add": 0.1}  # seconds that a command takes, until measured
USUAL_SECONDS, USUAL_REQUESTS = 0.6, 80
DAY = 86_400_000_000  # µs

# Faults of requests to S3, each affecting a few in a hundred.
FAULTS = (
    S3Fault(probability=0.005, before=INTERNAL_ERROR),
    S3Fault(probability=0.005, before=SLOW_DOWN),
    S3Fault(probability=0.005, before=CUT),
    S3Fault(method="PUT", conditional=True, probability=0.02, before=CONFLICT),
    S3Fault(method="PUT", probability=0.02, after=INTERNAL_ERROR),
    S3Fault(method="PUT", probability=0.02, after=CUT),
    S3Fault(method="GET", probability=0.01, truncate=True),
    S3Fault(probability=0.05, delay=0.03, jitter=True),
    S3Fault(probability=0.01, reorder=True),
)

# Named points of each command at which it may be killed; those reached for each request are listed several times.
POINTS = {
    "run": telemetry.FAILPOINTS,
    "plan": (telemetry.PLAN_STAGED, telemetry.PLAN_WRITTEN),
    "planned": (telemetry.PLAN_RELEASED, *telemetry.FAILPOINTS),
    "compact": (telemetry.COMPACTION_MERGED, telemetry.COMPACTION_CLEANED),
    "gc": (telemetry.GARBAGE_MARKED, telemetry.GARBAGE_DELETED),
    "rollback": telemetry.ROLLBACK_FAILPOINTS,
    "release": (telemetry.INDEX_MERGED, telemetry.RUN_COMMITTED),
}
PASSED = dict.fromkeys((telemetry.REQUEST_SENT, telemetry.REQUEST_ANSWERED, telemetry.VECTORS_KEPT), 6)
TURNS = {"run": 8, "plan": 3, "compact": 2, "rollback": 3, "gc": 1}


class Wrong(Exception):  # noqa: N818 - an answer that is wrong, not an error of the trial
    """Something differs from a project in which nothing was killed."""


@dataclass(frozen=True, kw_only=True)
class Moment:
    """When a command is killed: at a named point, after some seconds, or with the nth request to S3."""

    point: str = ""
    seconds: float = 0.0
    requests: int = 0

    def __str__(self) -> str:
        """Describe the moment."""
        if self.point:
            return f"at {self.point}"
        return f"at request {self.requests}" if self.requests else f"after {self.seconds:.3f} s"


@dataclass
class Outcome:
    """How many commands of a trial were killed and how many ended by themselves; `wrong` describes a failure."""

    kills: int = 0
    commands: int = 0
    rows: int = 0
    lost: int = 0
    doubled: int = 0
    twice: int = 0
    in_flight: int = 0
    seconds: float = 0.0
    wrong: str = ""
    story: list[str] = field(default_factory=list)


class Trial:
    """A trial determined by its seed, apart from the exact moments at which processes are killed."""

    def __init__(self, seed: int, folder: Path, *, kills: int, s3: str = "") -> None:
        """Kill at least `kills` commands, in `folder`; with an address in `s3`, the store is there."""
        self.outcome = Outcome()
        self._chance = random.Random(seed)
        self._seed, self._wanted, self._s3 = seed, kills, s3
        self._folder, self._logs = folder, folder / "logs"
        self._seconds, self._requests = dict(SECONDS), dict[str, int]()
        self._ahead = 0  # µs that the commands' clock is ahead of the real one; it never goes back
        self._rolled_back: set[str] = set()
        self._proxy: S3Proxy | None = None
        self._turn = 0
        # Two concurrent runs may both send a text that is in both, before either has its vector.
        self._crowded = seed % 3 == 0

    async def carry_out(self) -> Outcome:
        """Run the whole trial; failures are returned, not raised."""
        began = time.monotonic()
        self._logs.mkdir(parents=True)
        (self._folder / "project").mkdir()
        with contextlib.ExitStack() as opened:
            self._provider = opened.enter_context(CountingProcess(delay=DELAY))
            if self._s3:
                self._proxy = opened.enter_context(S3Proxy(self._s3, FAULTS, seed=self._seed))
            self._project = Project(self._folder / "project")
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
        await self._give("init", "init")
        await self._give("add", "add", "docs", "files", "docs")
        await self._give("add", "add", "notes", "jsonl", "notes.jsonl")

    def _edit(self) -> None:
        self._turn += 1
        edit(self._project, self._chance, self._turn, repeats=not self._crowded)

    async def _take_turn(self) -> None:
        if self._chance.random() < 0.8:
            self._edit()
        (turn,) = self._chance.choices(list(TURNS), list(TURNS.values()))
        if turn == "run":
            await self._run()
            if not self._rolled_back:
                await self._compare()
        elif turn == "plan":
            planned = (await self._give("plan", "plan", "--allow-deletes")).report
            if planned["plan_id"] is not None:
                await self._give("planned", "run", "--plan", planned["plan_id"])
        elif turn == "compact":
            self._ahead += self._chance.choice((0, 31)) * DAY
            now = ["--now"] if self._chance.random() < 0.5 else []
            index = self._chance.choice(("auto", "always", "never"))
            await self._give("compact", "compact", "--index", index, *now)
        elif turn == "rollback":
            await self._roll_back()
        else:
            self._ahead += 2 * DAY  # anything younger may be in flight, and is left alone
            await self._give("gc", "gc")

    async def _run(self) -> None:
        run = ("run", "--allow-deletes")
        if not self._crowded or self._chance.random() > CROWDED:
            await self._give("run", *run)
            return
        beside, _ = await asyncio.gather(self._ended("beside", run, None), self._give("run", *run))
        self._require_fair(beside, run)

    async def _roll_back(self) -> None:
        """Roll back to a version, or release a rollback."""
        versions = (await self._ended("versions", ("versions",), None)).report.get("versions", {})
        name = self._chance.choice(("docs", "notes"))
        if name in self._rolled_back:
            await self._release(name)
        elif kept := [each["version"] for each in versions.get(name, [])]:
            self._rolled_back.add(name)
            await self._give("rollback", "rollback", name, str(self._chance.choice(kept)))

    async def _release(self, name: str) -> None:
        await self._give("release", "rollback", name, "--release")
        self._rolled_back.discard(name)

    async def _end(self) -> None:
        """Release rollbacks, run to the end, and check that everything is as it should be."""
        for name in sorted(self._rolled_back):
            await self._release(name)
        await self._give("run", "run", "--allow-deletes")
        await self._compare()
        # From here on nothing is killed, and S3 has no faults.
        if self._proxy is not None:
            self._proxy.order()
        idle = (await self._give("idle", "run")).report
        if found := {name: idle[name] for name in ("chunks", "deleted", "embedded", "waiting") if idle[name]}:
            raise Wrong(f"something was left to do: {found}")
        status = (await self._give("status", "status")).report
        if set(status["chunks"]) - {"SUCCESS"} or status["dead_letters"] or status["pending"]:
            raise Wrong(f"something is not done: {status}")
        verified = (await self._give("verify", "verify")).report
        if any(each["faults"] for each in verified["collections"].values()):
            raise Wrong(f"verify finds faults: {verified}")
        await self._examine()
        await self._compare()
        self.outcome.twice = sum(times - 1 for times in self._provider.report().texts.values())
        if self.outcome.twice > self.outcome.in_flight:
            raise Wrong(
                f"{self.outcome.twice} texts were sent twice, and {self.outcome.in_flight} were in flight"
            )

    async def _examine(self) -> None:
        """Run the doctor, run the commands it names, and run it again."""
        self._ahead += 2 * DAY
        found = (await self._ended("doctor", ("doctor",), None)).report["findings"]
        if any(each["severity"] == "error" for each in found):
            raise Wrong(f"the doctor finds errors: {found}")
        for fix in dict.fromkeys(each["fix"] for each in found):
            for one in fix.split("; "):
                _, *arguments = shlex.split(one)
                await self._give("fix", *arguments)
        if left := (await self._ended("doctor", ("doctor",), None)).report["findings"]:
            raise Wrong(f"the doctor still finds, after {[each['fix'] for each in found]}: {left}")

    async def _compare(self) -> None:
        """Compare the index with that of a new, undisturbed project."""
        fresh = self._folder / "fresh"
        shutil.rmtree(fresh, ignore_errors=True)
        shutil.copytree(self._project.folder, fresh, ignore=shutil.ignore_patterns(".flowbed"))
        found = await call(
            compared,
            *(self._project.folder, fresh),
            variables=self._variables(self._s3),
            log=self._logs / f"{self._turn:02d}-compare",
        )
        self.outcome.rows, self.outcome.lost, self.outcome.doubled = (
            found[name] for name in ("rows", "lost", "doubled")
        )
        if found["differences"]:
            raise Wrong(f"the index is not what it would be: {found['differences']}")

    async def _give(self, kind: str, *arguments: str) -> Ran:
        """Run a command until it ends by itself and has done its work; it may be killed repeatedly."""
        for _ in range(TRIES):
            wanted = kind in {"init", "add", *POINTS} and self.outcome.kills < self._wanted
            moment = self._moment(kind) if wanted and self._chance.random() < KILLED else None
            ran = await self._ended(kind, arguments, moment)
            if ran.returncode == -signal.SIGKILL:
                self.outcome.kills += 1
            elif ran.returncode == 0 or (kind == "planned" and ran.report.get("drift")):
                return ran
            else:
                self._require_fair(ran, arguments)
        raise Wrong(f"{' '.join(arguments)} did not end well in {TRIES} tries")

    def _require_fair(self, ran: Ran, arguments: tuple[str, ...]) -> None:
        """Allow a command to fail only if S3 does not answer."""
        if ran.returncode and not (self._s3 and ran.returncode == 1):
            raise Wrong(
                f"{' '.join(arguments)} ended with {ran.returncode}: {ran.stdout}{ran.stderr[-2000:]}"
            )

    async def _ended(self, kind: str, arguments: tuple[str, ...], moment: Moment | None) -> Ran:
        """Run a command once, and wait for its end or its kill."""
        self.outcome.commands += 1
        process = start(
            *(*arguments, "--json", "-v"),
            folder=self._project.folder,
            variables=self._variables(self._proxy.url if self._proxy is not None else ""),
            point=moment.point if moment else "",
            ahead=self._ahead,
            log=self._logs / f"{self.outcome.commands:03d}-{kind}",
        )
        began, before = time.monotonic(), self._sent
        killing = asyncio.create_task(self._kill(process, moment, before))
        ran = await process.ended()
        killing.cancel()
        await asyncio.gather(killing, return_exceptions=True)
        if ran.returncode != -signal.SIGKILL:
            self._seconds[kind] = time.monotonic() - began
            self._requests[kind] = self._sent - before
        self.outcome.in_flight += ran.in_flight
        self.outcome.story.append(
            f"{self.outcome.commands:03d} {' '.join(arguments)}"
            f"{f' ({moment})' if moment else ''}: {ran.returncode}, {ran.in_flight} in flight"
        )
        return ran

    async def _kill(self, process: Forked, moment: Moment | None, before: int) -> None:
        """Kill a process when its moment comes; at a named point, it kills itself."""
        if moment is None or moment.point:
            return
        if not moment.requests:
            await asyncio.sleep(moment.seconds)
        while self._sent < before + moment.requests:  # noqa: ASYNC110 - the proxy counts in its own thread
            await asyncio.sleep(0.001)
        process.kill()

    @property
    def _sent(self) -> int:
        return len(self._proxy.exchanges) if self._proxy is not None else 0

    def _moment(self, kind: str) -> Moment:
        if kind in POINTS and self._chance.random() < 0.5:
            point = self._chance.choice(POINTS[kind])
            return Moment(point=f"{point}:{self._chance.randint(1, PASSED.get(point, 2))}")
        if self._s3 and self._chance.random() < 0.7:
            return Moment(requests=self._chance.randint(1, max(1, self._requests.get(kind, USUAL_REQUESTS))))
        return Moment(seconds=self._chance.uniform(0, self._seconds.get(kind, USUAL_SECONDS)))

    def _variables(self, s3: str) -> dict[str, str]:
        """Return the environment of a process that reaches S3 at `s3`, if the store is there."""
        ours = self._project.environment(self._provider, items=ITEMS) | {"FLOWBED_MODEL": "seeded:32"}
        if self._s3:
            ours |= variables(s3) | {"FLOWBED_STORE": f"s3://{BUCKET}/seed-{self._seed}"}
        return ours


def compared(folder: Path, fresh: Path) -> int:
    """Index the sources in the folder `fresh`, and return how the index of the project in `folder` differs."""
    found = contents_of(folder)
    for name in ("FLOWBED_STORE", "FLOWBED_MODEL_OPTIONS__SERVER"):
        os.environ.pop(name, None)
    with flowbed.open(fresh) as bed:
        report = bed.run()
    if report.failed:
        raise RuntimeError(f"a run that nothing happened to has failed: {report}")
    wanted = contents_of(fresh)
    there, due = (
        {(collection, key) for collection, rows in each.rows.items() for key in rows}
        for each in (found, wanted)
    )
    return respond(
        {
            "rows": len(due),
            "lost": len(due - there),
            "doubled": len(found.doubled) + len(there - due),
            "differences": differences(found, wanted),
        }
    )
