"""Publications killed at random moments.

A reader must always find the last good snapshot, whole and equal to the version of the index that it says it is.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import signal
import time
from typing import TYPE_CHECKING

from tests.support.publishing import PublishedProject, Wrong
from tests.support.servers.s3 import variables

from flowbed import telemetry
from flowbed.errors import Error
from flowbed.testing.s3proxy import S3Proxy
from torture.kills import BUCKET, DAY, FAULTS, Outcome

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.support.processes.running import Ran

POINTS = telemetry.PUBLICATION_FAILPOINTS
BY_TIME = 0.4  # share of the kills that come at a random time instead of at a named point
LONGEST = 2.0  # seconds until such a kill, about as long as a publication takes
LOOKED = 5  # kills between two comparisons by a plain client
TRIES = 40  # of one command over S3 with its faults


class PublishingTrial:
    """A trial determined by its seed, apart from the exact moments at which processes are killed."""

    def __init__(self, seed: int, folder: Path, *, kills: int, s3: str = "") -> None:
        """Kill at least `kills` publications, in `folder`; with an address in `s3`, the store is there."""
        self.outcome = Outcome()
        self._chance = random.Random(seed)
        self._seed, self._wanted, self._s3, self._folder = seed, kills, s3, folder

    async def carry_out(self) -> Outcome:
        """Run the whole trial; failures are returned, not raised."""
        began = time.monotonic()
        with contextlib.ExitStack() as opened:
            project = opened.enter_context(self._project())
            try:
                while self.outcome.kills < self._wanted:
                    await self._take_turn(project)
                await self._finish(project)
            except (Wrong, TimeoutError, RuntimeError, Error) as error:
                self.outcome.wrong = str(error)
        self.outcome.seconds = time.monotonic() - began
        return self.outcome

    @contextlib.contextmanager
    def _project(self) -> Iterator[PublishedProject]:
        folder = self._folder / "project"
        if not self._s3:
            yield PublishedProject(folder, {}, seed=self._seed)
            return
        # This process reads the store too, without faults.
        os.environ.update(variables(self._s3))
        with S3Proxy(self._s3, FAULTS, seed=self._seed) as proxy:
            url = f"s3://{BUCKET}/publishing-{self._seed}-{self._folder.name}"
            yield PublishedProject(folder, variables(proxy.url), store_url=url, s3=self._s3, seed=self._seed)

    async def _take_turn(self, project: PublishedProject) -> None:
        project.edit()
        await self._ended(project, "run", "--yes", "--allow-deletes")
        await self._kill(project)
        await project.look(self._folder / "reader")
        if self._chance.random() < 0.2:
            await self._ended(project, "gc", ahead=2 * DAY)
            await project.look(self._folder / "reader")
        if self.outcome.kills % LOOKED == 0:
            await self._finish(project)

    async def _kill(self, project: PublishedProject) -> None:
        """Start a publication and kill it at a point or after a time; it may be faster than that."""
        if self._chance.random() < BY_TIME:
            after = self._chance.uniform(0, LONGEST)
            self.outcome.story.append(f"publish, killed after {after:.2f} s")
            running = project.start("publish")
            await asyncio.to_thread(running.kill_after, after)
        else:
            point = self._chance.choice(POINTS)
            nth = self._chance.randint(1, 4) if point == telemetry.SNAPSHOT_FILE_UPLOADED else 1
            self.outcome.story.append(f"publish, killed at {point}:{nth}")
            running = project.start("publish", at=f"{point}:{nth}")
        ran = await running.ended()
        self.outcome.commands += 1
        self.outcome.kills += ran.returncode == -signal.SIGKILL

    async def _finish(self, project: PublishedProject) -> None:
        await self._ended(project, "publish")
        self.outcome.rows = await project.compare(self._folder / "reader")

    async def _ended(self, project: PublishedProject, *arguments: str, ahead: int = 0) -> Ran:
        """Run a command until it succeeds: over S3 it may meet faults."""
        for _ in range(TRIES):
            ran = await project.start(*arguments, ahead=ahead).ended()
            self.outcome.commands += 1
            if ran.returncode == 0:
                return ran
            if not self._s3:
                break
        raise Wrong(f"{arguments} failed: {ran.stdout} {ran.stderr[-1000:]}")
