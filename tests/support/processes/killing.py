"""Projects that other processes work on and are killed at.

A run that is killed and repeated sends no text twice except those that were in flight:

    killed = project.run(provider, at="delta.written:2")
    again = project.run(provider)
    assert sum(times - 1 for times in provider.report().texts.values()) <= killed.in_flight
"""

from __future__ import annotations

import asyncio
import json
import shutil
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from tests.support.processes.running import PATIENCE, Ran, start

import flowbed
from flowbed.testing.index import Contents, contents_of

if TYPE_CHECKING:
    import signal
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from tests.support.counting import CountingProcess
    from tests.support.processes.running import Forked

    from flowbed.maintenance.inspect import BedStatus

# Few texts a request and few requests at once, so that few texts are in flight.
ITEMS, CONCURRENCY = 20, 2
BATCH = 200  # chunks of a batch file at most
LOOK = 0.02  # seconds between two looks at a log


@dataclass(frozen=True)
class Project:
    """A project folder; its processes get the environment `variables` without the FLOWBED_ ones."""

    folder: Path
    variables: Mapping[str, str] = field(default_factory=dict)

    def write_source(self, name: str, kind: str, location: str) -> None:
        """Add a source to the project's settings."""
        file = self.folder / "flowbed.toml"
        before = file.read_text("utf-8") if file.exists() else 'model = "seeded:32"\n'
        file.write_text(f'{before}\n[sources.{name}]\nkind = "{kind}"\nlocation = "{location}"\n', "utf-8")

    def write_lines(self, name: str, records: Sequence[object]) -> None:
        """Write a file of JSON Lines."""
        (self.folder / name).write_text("".join(f"{json.dumps(record)}\n" for record in records), "utf-8")

    def write_text(self, name: str, text: str) -> None:
        """Write a file of text."""
        (self.folder / name).parent.mkdir(exist_ok=True)
        (self.folder / name).write_text(f"{text}\n", "utf-8")

    def environment(self, provider: CountingProcess, *, items: int = ITEMS) -> dict[str, str]:
        """Return the environment in which texts go to the counting process, a few at a time."""
        return {
            **{name: value for name, value in self.variables.items() if not name.startswith("FLOWBED_")},
            "FLOWBED_MODEL_OPTIONS__SERVER": provider.address,
            "FLOWBED_MODEL_OPTIONS__ITEMS": str(items),
            "FLOWBED_CONCURRENCY": str(CONCURRENCY),
        }

    def run(self, provider: CountingProcess, *arguments: str, at: str = "") -> Ran:
        """Run to the end, or until the named point (POINT:N) kills the process."""
        return self.start(provider, "run", *arguments, at=at).wait()

    def start(self, provider: CountingProcess, *arguments: str, at: str = "") -> Forked:
        """Start a command in a forked process, which the named point kills."""
        variables = self.environment(provider)
        return start(
            *(*arguments, "--json", "-v"), folder=self.folder, variables=variables, point=at, batch=BATCH
        )

    async def begun(self, provider: CountingProcess, *arguments: str, after: str = "") -> Running:
        """Start a run in a forked process, and wait until its log contains `after`, if given."""
        running = Running(self.start(provider, "run", *arguments))
        for _ in range(round(PATIENCE / LOOK)):
            if after in running.process.error_log():
                return running
            await asyncio.sleep(LOOK)
        raise TimeoutError(f"no {after} in the log: {running.process.error_log()}")

    def anew(self, folder: Path) -> Contents:
        """Return the index that an undisturbed new project in `folder` makes of the same sources."""
        shutil.copytree(self.folder, folder, ignore=shutil.ignore_patterns(".flowbed"))
        return replace(self, folder=folder).indexed()

    def copy(self, folder: Path) -> Project:
        """Copy the project with its state."""
        shutil.copytree(self.folder, folder)
        return replace(self, folder=folder)

    def indexed(self) -> Contents:
        """Run undisturbed, and return the index."""
        with flowbed.open(self.folder) as bed:
            assert bed.run().failed == 0
        self.assert_finished()
        return self.contents()

    def contents(self) -> Contents:
        """Read the index."""
        return contents_of(self.folder)

    def status(self) -> BedStatus:
        """Return the status of the project."""
        with flowbed.open(self.folder) as bed:
            return bed.status()

    def assert_finished(self) -> None:
        """Check that nothing is left to do, claimed or given up."""
        status = self.status()
        with flowbed.open(self.folder) as bed:
            plan = bed.plan()
        assert set(status.chunks) <= {"SUCCESS"}
        assert (status.dead_letters, status.pending) == (0, ())
        assert (plan.new, plan.changed, plan.deleted, plan.waiting, plan.tokens) == (0, 0, 0, 0, 0)


@dataclass(frozen=True)
class Running:
    """A run in another process."""

    process: Forked

    async def ended(self, signal_: signal.Signals | None = None, *, after: float = 0.0) -> Ran:
        """Wait for the end; send a signal after so many seconds, unless it has ended."""
        if signal_ is not None:
            await asyncio.sleep(after)
            self.process.send(signal_)
        return await self.process.ended()
