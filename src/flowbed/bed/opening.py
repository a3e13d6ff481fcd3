"""`Flowbed`, one open project, and how it is opened."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from flowbed import settings
from flowbed.bed.forgetting import Forgetting
from flowbed.bed.pipeline import Pipeline
from flowbed.bed.publishing import Publishing
from flowbed.bed.rows import Rows
from flowbed.bed.search import Search
from flowbed.bed.state import State
from flowbed.bed.submissions import Submissions
from flowbed.bed.versions import Versions
from flowbed.errors import Misconfigured
from flowbed.wiring import opening

if TYPE_CHECKING:
    from collections.abc import Generator

    from flowbed.maintenance.checklist import Checklist
    from flowbed.maintenance.doctor import Diagnosis
    from flowbed.services.jobs.project_jobs import ProjectJobs


class Flowbed(Pipeline, Submissions, Search, Rows, Versions, Forgetting, Publishing, State):
    """One open project: its sources, its ledger, and the index that it keeps in step with the sources."""

    @property
    def views(self) -> Flowbed:
        """The project itself, for services that show it to people."""
        return self

    @property
    def jobs(self) -> ProjectJobs:
        """Jobs that write documents into collections in the background."""
        from flowbed.services.jobs.project_jobs import ProjectJobs

        return ProjectJobs(self, checked=settings.checked_name)


class Opening:
    """A project about to be opened: await it, or enter it with `async with`, which closes the project at the end."""

    def __init__(self, folder: str | Path, *, repair: bool) -> None:
        """Open nothing yet."""
        self._folder = folder
        self._repair = repair
        self._bed: Flowbed | None = None

    def __await__(self) -> Generator[Any, None, Flowbed]:
        """Open the project."""
        return _opened(self._folder, repair=self._repair).__await__()

    async def __aenter__(self) -> Flowbed:
        """Open the project; leaving the block closes it."""
        self._bed = await self
        return self._bed

    async def __aexit__(self, *_: object) -> None:
        """Close the project."""
        if self._bed is not None:
            await self._bed.close()


def aopen(folder: str | Path = ".", *, repair: bool = False) -> Opening:
    """Open the project in `folder`, created if absent.

    `async with flowbed.aopen() as bed:` closes it at the end; `bed = await flowbed.aopen()` leaves that to the caller.
    `repair` replaces a damaged ledger, and binds the store to the ledger even if another had it.

    Raises:
        Misconfigured: its settings are invalid, or its store belongs to another ledger.
    """
    return Opening(folder, repair=repair)


async def _opened(folder: str | Path, *, repair: bool) -> Flowbed:
    bed = await _joined(folder, repair=repair)
    try:
        await bed.bind_store(again=repair)
    except BaseException:
        await bed.close()
        raise
    return bed


async def examine(folder: str | Path = ".") -> Diagnosis:
    """Diagnose the project in `folder`, even if it cannot be opened.

    Raises:
        Misconfigured: its settings are invalid.
    """
    try:
        bed = await _joined(folder)
    except Misconfigured as error:
        if (found := await opening.undiagnosable(Path(folder), error)) is None:
            raise
        return found
    async with bed:
        return await bed.doctor()


async def look_through(folder: str | Path = ".") -> Checklist:
    """Walk through the checklist of the project in `folder`, even if parts of it cannot be opened.

    Raises:
        Misconfigured: its settings are invalid.
    """
    from flowbed.wiring.checklist import open_parts

    async with Flowbed(*await open_parts(Path(folder))) as bed:
        return await bed.checklist()


async def _joined(folder: str | Path, *, repair: bool = False) -> Flowbed:
    """Open a project without checking that its store and its ledger belong together."""
    parts, repaired = await opening.open_project(Path(folder), repair=repair)
    bed = Flowbed(*parts)
    bed.rebound = repaired
    return bed
