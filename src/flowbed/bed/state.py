"""The state of a project: how it is, what is missing and why, and what failed."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from flowbed.bed.sources import Sources
from flowbed.errors import Damaged, Newer
from flowbed.wiring import opening, process

if TYPE_CHECKING:
    from flowbed.events.replay import Letter, Replayed
    from flowbed.maintenance.checklist import Checklist
    from flowbed.maintenance.doctor import Diagnosis
    from flowbed.maintenance.inspect import BedStatus, Reason
    from flowbed.maintenance.report import ProjectReport


class State(Sources):
    """The state of a project: how it is, what is missing and why, and what failed."""

    async def status(self) -> BedStatus:
        """Describe every collection, and count chunks by status, dead letters and live submissions."""
        from flowbed.maintenance.inspect import status

        return await status(self._context())

    async def why(self, subject: str) -> list[Reason]:
        """Explain the state of a chunk (by id), or of every chunk of a document (`DOCUMENT` or `SOURCE#DOCUMENT`).

        `subject` may also be the link of a message, an issue or a note: the chunks that hold it are explained.

        Raises:
            NotFound: the ledger knows no such chunk or document; the message says why, as far as that is known.
        """
        from flowbed.maintenance.lost_characters import with_lost_characters

        context = self._context()
        if subject.startswith(("https://", "http://")):
            from flowbed.maintenance.links import why_link

            found = await why_link(context, subject, await self._readable_feeds())
        else:
            from flowbed.maintenance.inspect import why

            found = await why(context, subject, self._readable_feeds)
        return await with_lost_characters(context, found)

    async def report(self) -> ProjectReport:
        """Gather how well the project is, how fresh, what it costs and how it grows; `flowbed report` writes it."""
        from flowbed.maintenance.report import report

        return await report(
            self._context(),
            name=self.folder.absolute().name,
            at=process.now(),
            diagnosis=await self.doctor(),
            sources=await self.sources(),
            schedule={name: (due.last, due.next) for name, due in (await self.schedule()).items()},
        )

    async def doctor(self) -> Diagnosis:
        """Find what is wrong or about to go wrong, each with the command that fixes it."""
        from flowbed.maintenance.doctor import broken_ledger, examine, made_by_newer_flowbed, wrong_ledger
        from flowbed.maintenance.store_binding import Unbound

        try:
            await self.bind_store()
        except Unbound as error:
            return wrong_ledger(error)
        except Newer as error:
            return made_by_newer_flowbed(self.settings.store, error)
        except Damaged as error:
            return broken_ledger(self.settings.ledger, error)
        return await examine(
            opening.doctor_context(self._context(), self.folder, self.settings, self._embedders.vector_file)
        )

    async def checklist(self) -> Checklist:
        """Walk the chain from sources to snapshots, stage by stage, in bounded time; change nothing.

        A stage that cannot be looked at is a failed item, and the others are looked at.
        """
        from flowbed.maintenance.checklist import walk
        from flowbed.wiring.checklist import checklist_context, own_ledger

        ledger = await own_ledger(self._store, self._ledger, **self._names())
        return await walk(
            checklist_context(
                replace(self._context(), ledger=ledger),
                self.folder,
                self.settings,
                self._embedders.vector_file,
            )
        )

    async def dead_letters(self, *, source: str = "", day: str = "", batch: str = "") -> list[Letter]:
        """List failures that need attention, oldest first: all, or those of a source, a day or a batch file.

        Raises:
            Rejected: `day` is not written as 2026-11-30.
        """
        from flowbed.events.replay import Which, letters

        return await letters(self._context(), Which(source=source, day=day, batch=batch))

    async def retry_dead_letters(self, *subjects: str) -> int:
        """Queue the chunks of the named dead letters (default: all) for the next run; return how many chunks."""
        return (await self.replay(*subjects)).waiting

    async def replay(self, *subjects: str, source: str = "", day: str = "", batch: str = "") -> Replayed:
        """Queue again what failed: all, the named dead letters, or what failed of a source, a day or a batch file.

        Args:
            subjects: the subjects of dead letters.
            source: the name of a source.
            day: the day of the batch files, in UTC, as 2026-11-30.
            batch: the key or the id of one batch file.

        Raises:
            NotFound: there is no such dead letter, or nothing of it has failed.
            Rejected: `day` is not written as 2026-11-30.
        """
        from flowbed.events.replay import Which, replay
        from flowbed.wiring.events import intake_context

        which = Which(source=source, day=day, batch=batch)
        return await replay(intake_context(self.settings, self._context()), which, subjects)
