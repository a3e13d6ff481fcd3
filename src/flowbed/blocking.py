"""The synchronous face: the calls of `flowbed.bed.Flowbed`, carried out on one event loop in a thread of its own."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Self, TypeVar

from flowbed.bed import aopen

if TYPE_CHECKING:
    from collections.abc import Coroutine, Sequence

    from flowbed.index.compaction import Compaction, VectorIndex
    from flowbed.index.versions import Version
    from flowbed.lanes.batch.find import Unembedded
    from flowbed.lanes.batch.poll import Polled
    from flowbed.lanes.batch.submit import Submitted
    from flowbed.ledger import DeadLetter, Rollback, Spent, SubmissionRow
    from flowbed.maintenance.doctor import Diagnosis
    from flowbed.maintenance.gc import Collected
    from flowbed.maintenance.inspect import BedStatus, Reason
    from flowbed.maintenance.verify import Verified
    from flowbed.pipeline.rollback import Released
    from flowbed.records import Hit, Plan, Report, SearchResults

Answer = TypeVar("Answer")
Name = Literal["lane", "source", "document", "run"]


class Blocking:
    """The synchronous face of a `Flowbed`: the same calls, carried out on one event loop in a thread of its own."""

    def __init__(self, folder: Path) -> None:
        """Open the project."""
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="flowbed", daemon=True)
        self._thread.start()
        try:
            self._bed = self._wait(aopen(folder))
        except BaseException:
            self._stop()
            raise

    def __enter__(self) -> Self:
        """Use the project as a context."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close the project."""
        self.close()

    def close(self) -> None:
        """Let go of files, databases and the thread; closing twice is no error."""
        if not self._loop.is_closed():
            self._wait(self._bed.close())
            self._stop()

    def add(self, name: str, **source: Any) -> None:  # as Flowbed.add
        """Write a source into `flowbed.toml`; takes what `Flowbed.add` takes."""
        self._wait(self._bed.add(name, **source))

    def plan(self, *names: str, **how: Any) -> Plan:  # as Flowbed.plan
        """Work out what a run would do; takes what `Flowbed.plan` takes."""
        return self._wait(self._bed.plan(*names, **how))

    def run(self, *names: str, **how: Any) -> Report:  # as Flowbed.run
        """Bring the index in step with the sources; takes what `Flowbed.run` takes."""
        return self._wait(self._bed.run(*names, **how))

    def find_unembedded(self, *names: str, **how: Any) -> Unembedded:  # as Flowbed.find_unembedded
        """Gather what waits to be embedded into submissions; takes what `Flowbed.find_unembedded` takes."""
        return self._wait(self._bed.find_unembedded(*names, **how))

    def submit(self, *submissions: str) -> Submitted:
        """Hand in what is ready, or the submissions named, to the provider's Batch API."""
        return self._wait(self._bed.submit(*submissions))

    def poll(self, *submissions: str) -> Polled:
        """Ask how what was handed in is, and commit what has been answered."""
        return self._wait(self._bed.poll(*submissions))

    def submissions(self, *, live: bool = True) -> list[SubmissionRow]:
        """List the submissions that are live, or those that have ended, oldest first."""
        return self._wait(self._bed.submissions(live=live))

    def cancel_submission(self, submission: str) -> None:
        """Ask for the end of a submission."""
        self._wait(self._bed.cancel_submission(submission))

    def spending(self, by: Name = "lane", *, limit: int = 20, days: float | None = None) -> list[Spent]:
        """Tell what was spent, planned against billed, under the names that cost most."""
        return self._wait(self._bed.spending(by, limit=limit, days=days))

    def search(self, query: str | Sequence[float], **how: Any) -> tuple[Hit, ...]:  # as Flowbed.search
        """Find what is nearest to a text or a vector; takes what `Flowbed.search` takes."""
        return self._wait(self._bed.search(query, **how))

    def find(self, query: str | Sequence[float], **how: Any) -> SearchResults:  # as Flowbed.find
        """Find what is nearest, with the versions that were asked; takes what `Flowbed.find` takes."""
        return self._wait(self._bed.find(query, **how))

    def status(self) -> BedStatus:
        """Describe every collection, the chunks by status, and what waits for someone to look."""
        return self._wait(self._bed.status())

    def why(self, subject: str) -> list[Reason]:
        """Say what is known of a chunk or of every chunk of a document."""
        return self._wait(self._bed.why(subject))

    def versions(self, collection: str) -> list[Version]:
        """List the versions of a collection that are kept, newest first."""
        return self._wait(self._bed.versions(collection))

    def compact(
        self, collection: str | None = None, *, vector_index: VectorIndex = "auto", now: bool = False
    ) -> dict[str, Compaction]:
        """Compact one collection or all."""
        return self._wait(self._bed.compact(collection, vector_index=vector_index, now=now))

    def tag(self, collection: str, version: int, name: str) -> None:
        """Keep a version from being dropped, under a name."""
        self._wait(self._bed.tag(collection, version, name))

    def untag(self, collection: str, name: str) -> bool:
        """Take a name away; return whether there was one."""
        return self._wait(self._bed.untag(collection, name))

    def rollback(self, collection: str, version: int) -> Rollback:
        """Put a collection back to an older version, as a new one."""
        return self._wait(self._bed.rollback(collection, version))

    def release(self, collection: str) -> Released:
        """Commit the runs that rollbacks of a collection reverted."""
        return self._wait(self._bed.release(collection))

    def verify(
        self, *collections: str, repair: bool = False, allow_deletes: bool = False
    ) -> dict[str, Verified]:
        """Prove that index, ledger and store agree; `repair` mends what does not."""
        return self._wait(self._bed.verify(*collections, repair=repair, allow_deletes=allow_deletes))

    def gc(self, *collections: str, dry_run: bool = False) -> Collected:
        """Delete what nothing needs any more."""
        return self._wait(self._bed.gc(*collections, dry_run=dry_run))

    def doctor(self) -> Diagnosis:
        """Find what is wrong, or about to be, and with which command it is mended."""
        return self._wait(self._bed.doctor())

    def dead_letters(self) -> list[DeadLetter]:
        """List what failed for good until someone looks, oldest first."""
        return self._wait(self._bed.dead_letters())

    def retry_dead_letters(self, *subjects: str) -> int:
        """Let the chunks of the dead letters named (or of all) wait for the next run again; return how many do."""
        return self._wait(self._bed.retry_dead_letters(*subjects))

    def _wait(self, work: Coroutine[Any, Any, Answer]) -> Answer:
        tasks: list[asyncio.Task[Answer]] = []

        async def watched() -> Answer:
            tasks.append(asyncio.ensure_future(work))
            return await tasks[0]

        future = asyncio.run_coroutine_threadsafe(watched(), self._loop)
        try:
            return future.result()
        except KeyboardInterrupt:
            # Let the work give its claims back before the program ends; whatever it ends with, the caller interrupted.
            for task in tasks:
                self._loop.call_soon_threadsafe(task.cancel)
            with contextlib.suppress(BaseException):
                future.result(timeout=10)
            raise

    def _stop(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()


def open(folder: str | Path = ".") -> Blocking:  # noqa: A001 - read as `flowbed.open`
    """Open the project in `folder`, made where absent, for synchronous use.

    Raises:
        Misconfigured: its settings cannot be used, or its store belongs to another ledger.
    """
    return Blocking(Path(folder))
