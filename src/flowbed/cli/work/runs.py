"""The commands that plan a run and carry it out."""

from __future__ import annotations

import sys
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Annotated, cast

import typer

from flowbed.cli.options import Common, Deadline, Limit, Names
from flowbed.cli.printing.output import note
from flowbed.cli.printing.progress import progress
from flowbed.cli.project import DONE, FAILURES
from flowbed.errors import Misconfigured
from flowbed.records.values import count

if TYPE_CHECKING:
    from collections.abc import Sequence

    from flowbed.bed import Flowbed
    from flowbed.lanes.choice import LaneOption
    from flowbed.records import Plan, Report, Status

LANES = ("auto", "realtime", "batch")


def plan(
    common: Common,
    names: Names = None,
    allow_deletes: Annotated[
        bool, typer.Option("--allow-deletes", help="Include large deletions in the plan.")
    ] = False,
    deadline: Deadline = None,
) -> int:
    """Show what a run would do and cost, and keep the plan for `run --plan`."""
    from flowbed.cli.printing import reports
    from flowbed.cli.printing.formatting import read_span

    seconds = read_span(deadline)
    with progress(as_json=False):  # so that standard output holds the plan alone
        found = common.with_bed(
            lambda bed: bed.plan(*names or (), allow_deletes=allow_deletes, deadline=seconds)
        )
    common.show(found, reports.show_plan)
    return DONE if all(each.skipped for each in found.problems) else FAILURES


@dataclass(frozen=True, kw_only=True)
class Request:
    """What a run was asked to do."""

    names: Sequence[str]
    lane: LaneOption | None
    deadline: float | None
    allow_deletes: bool

    async def plan(self, bed: Flowbed) -> Plan:
        """Plan it."""
        return await bed.plan(
            *self.names, allow_deletes=self.allow_deletes, lane=self.lane, deadline=self.deadline
        )


def run(
    common: Common,
    names: Names = None,
    plan_id: Annotated[
        str | None, typer.Option("--plan", metavar="ID", help="Carry out this plan as it was shown.")
    ] = None,
    budget: Annotated[
        float | None, typer.Option(metavar="USD", min=0, help="Stop before a request that would exceed it.")
    ] = None,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask before spending money.")] = False,
    lane: Annotated[
        str | None, typer.Option(metavar="LANE", help="auto, realtime or batch; default: the project's.")
    ] = None,
    deadline: Deadline = None,
    wait: Annotated[bool, typer.Option("--wait", help="Wait for the results of the Batch API.")] = False,
    limit: Limit = None,
    status: Annotated[str | None, typer.Option(help="Only chunks of this status: NONE or FAILED.")] = None,
    allow_deletes: Annotated[
        bool,
        typer.Option(
            "--allow-deletes",
            help="Delete more than 30 % of a source's documents at once, or despite unreadable records.",
        ),
    ] = False,
) -> int:
    """Bring the index in step with the sources; on a terminal, ask before spending money."""
    from flowbed.cli.printing import reports
    from flowbed.cli.printing.formatting import read_span

    request = Request(
        names=names or (), lane=_lane(lane), deadline=read_span(deadline), allow_deletes=allow_deletes
    )
    only = _status(status)
    if plan_id is None and budget is None and not (yes or common.as_json) and _on_a_terminal():
        agreed, shown = _confirm(common, request)
        if not agreed:
            note(
                "nothing was embedded"
                + (f"; `flowbed run --plan {shown}` carries out this plan" if shown else "")
            )
            return FAILURES
        if shown and only is None:
            plan_id, request = shown, replace(request, names=(), allow_deletes=False)

    async def carry_out(bed: Flowbed) -> Report:
        return await bed.run(
            *request.names,
            plan=plan_id,
            budget=budget,
            allow_deletes=request.allow_deletes,
            status=only,
            limit=limit,
            lane=request.lane,
            wait=wait,
            deadline=request.deadline,
        )

    with progress(as_json=common.as_json):
        report = common.with_bed(carry_out)
    if common.verbose:
        note(f"{report.lane} lane: {report.lane_why}")
    common.show(report, reports.show_report)
    return FAILURES if report.failures or report.withheld or report.drift else DONE


def _lane(name: str | None) -> LaneOption | None:
    if name is not None and name not in LANES:
        raise Misconfigured(f"no lane is called {name!r}; choose {', '.join(LANES[:-1])} or {LANES[-1]}")
    return cast("LaneOption | None", name)


def _status(name: str | None) -> Status | None:
    from flowbed.records import Status

    if name is not None and name not in {Status.NONE, Status.FAILED}:
        raise Misconfigured(f"chunks of status {name!r} cannot be embedded; choose NONE or FAILED")
    return None if name is None else Status(name)


def _on_a_terminal() -> bool:
    return sys.stdin.isatty() and sys.stderr.isatty()


def _confirm(common: Common, request: Request) -> tuple[bool, str | None]:
    """Ask before a run that costs money; return whether it may go on, and the id of the plan that was shown."""
    from flowbed.cli.printing import reports
    from flowbed.lanes.budget import dollars

    async def priced(bed: Flowbed) -> tuple[Plan | None, LaneOption]:
        lane = request.lane or bed.settings.lane
        return (await request.plan(bed) if await bed.price() else None), lane

    with progress(as_json=False):
        plan, lane = common.with_bed(priced)
    if plan is None:
        return True, None
    chosen = plan.lanes[plan.lane if lane == "auto" else lane]
    if chosen is None or not chosen.cost_usd:
        return True, plan.plan_id
    reports.show_plan(plan)
    try:
        agreed = typer.confirm(
            f"embed {count(plan.tokens, 'token')} for {dollars(chosen.cost_usd)}?", err=True
        )
    except typer.Abort:
        agreed = False
    return agreed, plan.plan_id
