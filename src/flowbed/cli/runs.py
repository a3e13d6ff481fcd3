"""The commands that plan a run, and carry one out."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer

from flowbed.cli.output import note, progress, say_json
from flowbed.cli.project import DONE, FAILURES, Config, Json, Names, Verbose, log_to_stderr, with_bed
from flowbed.errors import Misconfigured

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from flowbed.bed import Flowbed
    from flowbed.lanes.choice import Asked
    from flowbed.records import Plan, Report

LANES = ("auto", "realtime", "batch")

Lane = Annotated[
    str | None, typer.Option(metavar="LANE", help="auto, realtime or batch; by default the project's.")
]
Deadline = Annotated[
    str | None,
    typer.Option(
        metavar="TIME",
        help="When all has to be embedded, as 90m, 6h or 2d from now: what can wait costs less.",
    ),
]


def plan(
    names: Names = None,
    allow_deletes: Annotated[
        bool, typer.Option("--allow-deletes", help="Plan with large deletions.")
    ] = False,
    deadline: Deadline = None,
    as_json: Json = False,
    config: Config = None,
    verbose: Verbose = False,
) -> None:
    """Tell what a run would do and what it would cost, and keep it for `run --plan`."""
    from flowbed.cli import reports  # loaded by the commands that need it, so that --help is quick
    from flowbed.cli.formatting import read_span

    log_to_stderr(verbose=verbose)
    seconds = read_span(deadline)
    with progress(as_json=False):  # so that the plan is all there is on standard output
        found = with_bed(
            config, lambda bed: bed.plan(*names or (), allow_deletes=allow_deletes, deadline=seconds)
        )
    say_json(found) if as_json else reports.show_plan(found)


def run_(
    names: Names = None,
    plan_id: Annotated[
        str | None, typer.Option("--plan", metavar="ID", help="Do just what this plan says.")
    ] = None,
    budget: Annotated[
        float | None, typer.Option(metavar="USD", min=0, help="Stop before a request that would pass it.")
    ] = None,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask before what costs money.")] = False,
    lane: Lane = None,
    deadline: Deadline = None,
    wait: Annotated[
        bool, typer.Option("--wait", help="Wait until the provider has answered what was handed in.")
    ] = False,
    limit: Annotated[int | None, typer.Option(min=1, help="Embed at most so many chunks.")] = None,
    status: Annotated[str | None, typer.Option(help="Only chunks of this status: NONE or FAILED.")] = None,
    allow_deletes: Annotated[
        bool, typer.Option("--allow-deletes", help="Let more than 30 % of a source's documents go at once.")
    ] = False,
    as_json: Json = False,
    config: Config = None,
    verbose: Verbose = False,
) -> int:
    """Bring the index in step with the sources; on a terminal, ask before what costs money."""
    from flowbed.cli import reports
    from flowbed.cli.formatting import read_span
    from flowbed.records import Status

    log_to_stderr(verbose=verbose)
    if lane is not None and lane not in LANES:
        raise Misconfigured(f"no lane is called {lane!r}; there are {', '.join(LANES[:-1])} and {LANES[-1]}")
    if status is not None and status not in {Status.NONE, Status.FAILED}:
        raise Misconfigured(f"chunks of status {status!r} cannot be embedded; choose NONE or FAILED")
    seconds = read_span(deadline)
    how: dict[str, Any] = {
        "allow_deletes": allow_deletes,
        "status": None if status is None else Status(status),
    }
    which = names or []
    if plan_id is None and budget is None and not (yes or as_json) and _someone_is_there():
        agreed, shown = _agreed(config, which, lane=lane, deadline=seconds, allow_deletes=allow_deletes)
        if not agreed:
            note(
                "nothing was embedded" + (f"; `flowbed run --plan {shown}` does it as shown" if shown else "")
            )
            return FAILURES
        if shown and status is None:
            plan_id, which, how = shown, [], {}

    async def carry_out(bed: Flowbed) -> Report:
        return await bed.run(
            *which,
            plan=plan_id,
            budget=budget,
            limit=limit,
            lane=cast("Asked | None", lane),
            wait=wait,
            deadline=seconds,
            **how,
        )

    with progress(as_json=as_json):
        report = with_bed(config, carry_out)
    if verbose:
        note(f"{report.lane} lane: {report.lane_why}")
    say_json(report) if as_json else reports.show_report(report)
    return FAILURES if report.failures or report.withheld or report.drift else DONE


def _someone_is_there() -> bool:
    return sys.stdin.isatty() and sys.stderr.isatty()


def _agreed(
    config: Path | None,
    names: Sequence[str],
    *,
    lane: str | None,
    deadline: float | None,
    allow_deletes: bool,
) -> tuple[bool, str | None]:
    """Show what a run would cost, where it costs anything, and ask; also return the id of the plan that was shown."""
    from flowbed.cli import reports
    from flowbed.lanes.budget import dollars

    async def priced(bed: Flowbed) -> tuple[Plan | None, str]:
        asked = lane or bed.settings.lane
        if not await bed.price():
            return None, asked
        wanted = cast("Asked | None", lane)
        return await bed.plan(*names, allow_deletes=allow_deletes, lane=wanted, deadline=deadline), asked

    with progress(as_json=False):
        found, asked = with_bed(config, priced)
    if found is None:
        return True, None
    taken = found.lanes[found.lane if asked == "auto" else asked]
    if taken is None or not taken.cost_usd:
        return True, found.plan_id
    reports.show_plan(found)
    try:
        agreed = typer.confirm(f"embed {found.tokens:,} tokens for {dollars(taken.cost_usd)}?", err=True)
    except typer.Abort:
        agreed = False
    return agreed, found.plan_id
