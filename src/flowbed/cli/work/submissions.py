"""The commands about submissions: the steps of the batch lane, each of which is safe to repeat."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

import typer

from flowbed.cli.options import Common, Deadline, Limit, Names
from flowbed.cli.printing.output import say
from flowbed.cli.printing.progress import progress
from flowbed.cli.project import DONE, FAILURES

if TYPE_CHECKING:
    from flowbed.bed import Flowbed
    from flowbed.lanes.batch.submit import Submitted
    from flowbed.lanes.outcome import Polled
    from flowbed.ledger import SubmissionRow

Ids = Annotated[
    list[str] | None, typer.Argument(metavar="[ID]...", help="Submissions; default: all live ones.")
]


def list_(
    common: Common,
    every: Annotated[bool, typer.Option("--all", help="Also list those that have ended.")] = False,
) -> None:
    """List the live submissions and the state of each."""
    from flowbed.cli.printing import reports

    async def read(bed: Flowbed) -> list[SubmissionRow]:
        ended = await bed.submissions(live=False) if every else []
        return [*ended, *await bed.submissions(live=True)]

    rows = common.with_bed(read)
    none = "there are no submissions" if every else "no submission is live"
    common.show({"submissions": rows}, lambda _: reports.show_live(rows) if rows else say(none))


def find(common: Common, names: Names = None, limit: Limit = None, deadline: Deadline = None) -> int:
    """Gather fetched chunks that are not embedded into submissions."""
    from flowbed.cli.printing import reports
    from flowbed.cli.printing.formatting import read_span

    seconds = read_span(deadline)
    with progress(as_json=common.as_json):
        found = common.with_bed(lambda bed: bed.find_unembedded(*names or (), limit=limit, deadline=seconds))
    common.show(found, reports.show_gathered)
    return FAILURES if found.failures or found.stopped else DONE


def submit(common: Common, ids: Ids = None) -> int:
    """Submit what was gathered; a submission that may be at the provider already is looked up there first."""
    from flowbed.cli.printing import reports

    done = common.with_bed(lambda bed: bed.submit(*ids or ()))
    common.show(done, reports.show_submitted)
    return FAILURES if done.failures else DONE


def poll(
    common: Common,
    ids: Ids = None,
    wait: Annotated[bool, typer.Option("--wait", help="Wait until all of them have ended.")] = False,
) -> int:
    """Ask the provider for results, and commit them."""
    from flowbed.cli.printing import reports

    async def look(bed: Flowbed) -> Polled:
        from flowbed.lanes.batch.wait import wait_until_ended

        if not wait:
            return await bed.poll(*ids or ())
        live = {row.id for row in await bed.submissions(live=True)}
        return await wait_until_ended(_Steps(bed), live & set(ids) if ids else live)

    with progress(as_json=common.as_json):
        polled = common.with_bed(look)
    common.show(polled, reports.show_polled)
    return FAILURES if polled.tally.failures else DONE


def cancel(
    common: Common,
    ids: Annotated[list[str], typer.Argument(metavar="ID...", help="Ids of `flowbed submissions list`.")],
) -> None:
    """Cancel submissions; results that exist by then are kept, and the other texts wait for another run."""

    async def ask(bed: Flowbed) -> None:
        for each in ids:
            await bed.cancel_submission(each)

    common.with_bed(ask)

    def show(_: object) -> None:
        for each in ids:
            say(
                f"submission {each} will be cancelled: `flowbed submissions poll` tells the provider and collects"
                " the results that exist"
            )

    common.show({"cancelled": ids}, show)


@dataclass(frozen=True)
class _Steps:
    """The steps that waiting repeats, as calls of the project."""

    bed: Flowbed

    async def poll(self) -> Polled:
        return await self.bed.poll()

    async def submit(self) -> Submitted:
        return await self.bed.submit()
