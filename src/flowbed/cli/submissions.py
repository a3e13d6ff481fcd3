"""The commands about submissions: the steps of the batch lane, each of which can be done again and again."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

import typer

from flowbed.cli.output import progress, say, say_json
from flowbed.cli.project import DONE, FAILURES, Config, Json, Names, Verbose, log_to_stderr, with_bed

if TYPE_CHECKING:
    from flowbed.bed import Flowbed
    from flowbed.lanes.batch.poll import Polled
    from flowbed.lanes.batch.submit import Submitted
    from flowbed.ledger import SubmissionRow

submissions = typer.Typer(
    no_args_is_help=True, help="What is at the provider's Batch API, or on its way there."
)

Ids = Annotated[
    list[str] | None, typer.Argument(metavar="[ID]...", help="Submissions; by default all that are live.")
]


@submissions.command("list")
def list_(
    every: Annotated[bool, typer.Option("--all", help="Those that have ended, too.")] = False,
    as_json: Json = False,
    config: Config = None,
    verbose: Verbose = False,
) -> None:
    """List the live submissions, and how each is."""
    from flowbed.cli import reports  # loaded by the commands that need it

    log_to_stderr(verbose=verbose)

    async def read(bed: Flowbed) -> list[SubmissionRow]:
        ended = await bed.submissions(live=False) if every else []
        return [*ended, *await bed.submissions(live=True)]

    rows = with_bed(config, read)
    if as_json:
        say_json({"submissions": rows})
    elif rows:
        reports.show_live(rows)
    else:
        say("no submission is live" if not every else "there are no submissions")


@submissions.command()
def find(
    names: Names = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Take at most so many chunks.")] = None,
    deadline: Annotated[
        str | None, typer.Option(metavar="TIME", help="When what has no answer is embedded now: 90m, 6h, 2d.")
    ] = None,
    as_json: Json = False,
    config: Config = None,
    verbose: Verbose = False,
) -> int:
    """Gather what was fetched and is not embedded into submissions."""
    from flowbed.cli import reports
    from flowbed.cli.formatting import read_span

    log_to_stderr(verbose=verbose)
    seconds = read_span(deadline)
    with progress(as_json=as_json):
        found = with_bed(config, lambda bed: bed.find_unembedded(*names or (), limit=limit, deadline=seconds))
    say_json(found) if as_json else reports.show_gathered(found)
    return FAILURES if found.failures or found.stopped else DONE


@submissions.command()
def submit(ids: Ids = None, as_json: Json = False, config: Config = None, verbose: Verbose = False) -> int:
    """Hand in what was gathered; a submission that somebody began to hand in is looked for first."""
    from flowbed.cli import reports

    log_to_stderr(verbose=verbose)
    done = with_bed(config, lambda bed: bed.submit(*ids or ()))
    say_json(done) if as_json else reports.show_submitted(done)
    return FAILURES if done.failures else DONE


@submissions.command()
def poll(
    ids: Ids = None,
    wait: Annotated[bool, typer.Option("--wait", help="Go on until all of them have ended.")] = False,
    as_json: Json = False,
    config: Config = None,
    verbose: Verbose = False,
) -> int:
    """Ask the provider how it is getting on, and commit what it has answered."""
    from flowbed.cli import reports

    log_to_stderr(verbose=verbose)

    async def look(bed: Flowbed) -> Polled:
        from flowbed.lanes.batch.wait import until_ended

        if not wait:
            return await bed.poll(*ids or ())
        live = {row.id for row in await bed.submissions(live=True)}
        return await until_ended(_OfBed(bed), live & set(ids) if ids else live)

    with progress(as_json=as_json):
        polled = with_bed(config, look)
    say_json(polled) if as_json else reports.show_polled(polled)
    return FAILURES if polled.tally.failures else DONE


@submissions.command()
def cancel(
    ids: Annotated[
        list[str], typer.Argument(metavar="ID...", help="As `flowbed submissions list` has them.")
    ],
    as_json: Json = False,
    config: Config = None,
    verbose: Verbose = False,
) -> None:
    """Ask for the end of submissions; what is answered until then is kept, and the rest waits for another run."""
    log_to_stderr(verbose=verbose)

    async def ask(bed: Flowbed) -> None:
        for each in ids:
            await bed.cancel_submission(each)

    with_bed(config, ask)
    if as_json:
        say_json({"cancelled": ids})
    else:
        for each in ids:
            say(
                f"submission {each} is to end: `flowbed submissions poll` tells the provider, and takes in what it has"
            )


@dataclass(frozen=True)
class _OfBed:
    """The steps of waiting, as a command takes them."""

    bed: Flowbed

    async def look(self) -> Polled:
        return await self.bed.poll()

    async def submit(self) -> Submitted:
        return await self.bed.submit()
