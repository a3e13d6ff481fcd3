"""Publishers, readers and a collector of garbage on one project at once.

Every snapshot that a reader pulls must be whole, equal the version of the index that it says it is, and be no older
than the one before.
"""

from __future__ import annotations

import asyncio
import shutil
import time
from typing import TYPE_CHECKING

from tests.support.publishing import COLLECTION, PublishedProject, Wrong, difference, read_plainly

from flowbed.errors import Error
from flowbed.publish.chroma.garbage import delete_snapshot, unneeded_snapshots
from flowbed.publish.chroma.pull import pull
from flowbed.wiring import process

if TYPE_CHECKING:
    from collections.abc import Coroutine
    from pathlib import Path

PAUSE = 0.05  # seconds between two looks
SHOWN = 10  # wrong answers that are printed
RACES = "others kept publishing"  # what a publisher says that was overtaken again and again


class Crowd:
    """A project on which many work for some seconds; `wrong` says what was wrong, `counts` what was done."""

    def __init__(self, folder: Path, *, seconds: float) -> None:
        """Start nothing."""
        self.project = PublishedProject(folder / "project", {}, seed=1)
        self.wrong: list[str] = []
        self.counts = dict.fromkeys(("published", "overtaken", "pulled", "opened", "collected"), 0)
        self._folder, self._seconds, self._until = folder, seconds, 0.0

    async def work(self, *, publishers: int, readers: int) -> None:
        """Publish once, let all work at once, and compare the end with the index."""
        for command in (("run", "--yes"), ("publish",)):
            await self.project.start(*command).ended()
        self._until = time.monotonic() + self._seconds
        works = [
            self._edit(),
            self._collect(),
            *(self._publish() for _ in range(publishers)),
            *(self._read(each) for each in range(readers)),
        ]
        await asyncio.gather(*(self._guarded(each) for each in works))
        await self._guarded(self._end())

    def _is_over(self) -> bool:
        return time.monotonic() >= self._until

    async def _guarded(self, work: Coroutine[None, None, None]) -> None:
        try:
            await work
        except (Error, Wrong, OSError) as error:
            self.wrong.append(f"{type(error).__name__}: {error}")

    async def _edit(self) -> None:
        while not self._is_over():
            self.project.edit()
            await self.project.start("run", "--yes", "--allow-deletes").ended()

    async def _publish(self) -> None:
        while not self._is_over():
            ran = await self.project.start("publish").ended()
            self.counts["overtaken" if ran.returncode else "published"] += 1
            if ran.returncode and RACES not in ran.stdout:
                self.wrong.append(f"a publisher failed: {ran.stdout} {ran.stderr[-500:]}")

    async def _collect(self) -> None:
        """Delete at once what two looks agree on: only the pointer, leases and claims keep a snapshot."""
        store = self.project.store
        while not self._is_over():
            looks = []
            for _ in range(2):
                now = process.now()
                found = unneeded_snapshots(store, COLLECTION, now=now, before=now, dead=process.dead)
                looks.append({each.key async for each in found})
            for key in looks[0] & looks[1]:
                await delete_snapshot(store, key)
                self.counts["collected"] += 1
            await asyncio.sleep(PAUSE)

    async def _read(self, number: int) -> None:
        last = 0
        while not self._is_over():
            done = await pull(self.project.store, COLLECTION, self._folder / f"reader-{number}")
            self.counts["pulled"] += 1
            if done.index_version < last:
                self.wrong.append(f"the pointer went back from version {last} to {done.index_version}")
            if done.index_version > last:
                await self._open(done.path, done.index_version, self._folder / f"opened-{number}")
            last = done.index_version
            await asyncio.sleep(PAUSE)

    async def _open(self, snapshot: Path, version: int, copy: Path) -> None:
        shutil.rmtree(copy, ignore_errors=True)
        await asyncio.to_thread(shutil.copytree, snapshot, copy)
        found = await asyncio.to_thread(read_plainly, copy)
        self.counts["opened"] += 1
        if fault := difference(found, await self.project.rows_at(version)):
            self.wrong.append(f"version {version}: {fault}")

    async def _end(self) -> None:
        await self.project.start("publish").ended()
        await self.project.compare(self._folder / "last")


async def crowd(folder: Path, *, seconds: float, publishers: int, readers: int) -> bool:
    """Let publishers, readers and a collector work at once for `seconds`; return whether every answer was right."""
    working = Crowd(folder, seconds=seconds)
    await working.work(publishers=publishers, readers=readers)
    said = ", ".join(f"{number} {name}" for name, number in working.counts.items())
    print(f"publications: {said}, {len(working.wrong)} wrong answers in {seconds:.0f} s", flush=True)
    for each in working.wrong[:SHOWN]:
        print(f"    {each}", flush=True)
    return not working.wrong
