"""The state of a project: how it is, what is missing and why, and what failed."""

from __future__ import annotations

from typing import TYPE_CHECKING

from flowbed.blocking.loop import Loop

if TYPE_CHECKING:
    from flowbed.events.replay import Letter, Replayed
    from flowbed.maintenance.checklist import Checklist
    from flowbed.maintenance.doctor import Diagnosis
    from flowbed.maintenance.inspect import BedStatus, Reason
    from flowbed.maintenance.report import ProjectReport


class State(Loop):
    """The state of a project: how it is, what is missing and why, and what failed."""

    def status(self) -> BedStatus:
        """Describe every collection, and count chunks by status, dead letters and live submissions."""
        return self._wait(self._bed.status())

    def why(self, subject: str) -> list[Reason]:
        """Explain the state of a chunk (by id), or of every chunk of a document (`DOCUMENT` or `SOURCE#DOCUMENT`).

        `subject` may also be the link of a message, an issue or a note: the chunks that hold it are explained.

        Raises:
            NotFound: the ledger knows no such chunk or document; the message says why, as far as that is known.
        """
        return self._wait(self._bed.why(subject))

    def report(self) -> ProjectReport:
        """Gather how well the project is, how fresh, what it costs and how it grows; `flowbed report` writes it."""
        return self._wait(self._bed.report())

    def doctor(self) -> Diagnosis:
        """Find what is wrong or about to go wrong, each with the command that fixes it."""
        return self._wait(self._bed.doctor())

    def checklist(self) -> Checklist:
        """Walk the chain from sources to snapshots, stage by stage, in bounded time; change nothing.

        A stage that cannot be looked at is a failed item, and the others are looked at.
        """
        return self._wait(self._bed.checklist())

    def dead_letters(self, *, source: str = "", day: str = "", batch: str = "") -> list[Letter]:
        """List failures that need attention, oldest first: all, or those of a source, a day or a batch file.

        Raises:
            Rejected: `day` is not written as 2026-11-30.
        """
        return self._wait(self._bed.dead_letters(source=source, day=day, batch=batch))

    def retry_dead_letters(self, *subjects: str) -> int:
        """Queue the chunks of the named dead letters (default: all) for the next run; return how many chunks."""
        return self._wait(self._bed.retry_dead_letters(*subjects))

    def replay(self, *subjects: str, source: str = "", day: str = "", batch: str = "") -> Replayed:
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
        return self._wait(self._bed.replay(*subjects, source=source, day=day, batch=batch))
