"""Results as people read them."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from flowbed.cli.output import say
from flowbed.errors import Rejected

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from flowbed.index.compaction import Compaction
    from flowbed.index.versions import Version
    from flowbed.ledger import DeadLetter
    from flowbed.pipeline.inspect import BedStatus, Reason
    from flowbed.records import Found, Plan, Problem, Report

SHOWN = 20  # problems of a kind that are listed; the rest is counted
WIDTH = 300  # characters of a hit's text that are shown


def read_where(text: str | None) -> dict[str, Any] | None:
    """Read a filter from the command line.

    Raises:
        Rejected: it is no JSON.

    """
    if text is None:
        return None
    try:
        where: dict[str, Any] = json.loads(text)
    except ValueError as error:
        message = f'--where takes JSON such as \'{{"source": "handbook"}}\': {error}'
        raise Rejected(message) from error
    return where


def show_plan(plan: Plan) -> None:
    """Show what a run would do."""
    say(f"plan {plan.plan_id}: {_count(plan.documents, 'document')} to fetch or drop")
    say(
        f"  chunks  {plan.new:,} new, {plan.changed:,} changed, {plan.deleted:,} deleted, {plan.waiting:,} waiting"
    )
    say(f"  reuse   {plan.reused:,} need no embedding: repeated text, or its vector is at hand")
    say(f"  tokens  {plan.tokens:,} to embed")
    for name, lane in plan.lanes.items():
        if lane is not None:
            say(f"  {name:<9}${lane.cost_usd:,.4f}, about {_seconds(lane.seconds)}")
    _problems("passed over", [problem for problem in plan.problems if problem.skipped])
    _problems("failed", [problem for problem in plan.problems if not problem.skipped])
    for name, reason in plan.withheld.items():
        say(f"  {name}: {reason}")


def show_report(report: Report) -> None:
    """Show what a run did."""
    say(
        f"{_count(report.fetched, 'document')} fetched; {_count(report.chunks, 'chunk')} indexed,"
        f" {report.deleted:,} deleted in {_seconds(report.seconds)}"
    )
    say(
        f"  embedded {_count(report.embedded, 'text')} ({report.tokens:,} tokens, ${report.cost_usd:,.4f}),"
        f" reused {_count(report.reused, 'vector')}"
    )
    if report.truncated:
        say(f"  {report.truncated:,} chunks were longer than the model's window and are cut off there")
    for name, version in report.versions.items():
        say(f"  {name}: version {version}")
    _problems("passed over", report.skipped)
    _problems("failed", report.failures)
    for name, reason in report.withheld.items():
        say(f"  {name}: {reason}")


def show_hits(found: Found) -> None:
    """Show what was found."""
    if not found.hits:
        say("nothing found")
    for hit in found.hits:
        text = " ".join(hit.document.split())
        say(f"{hit.score:6.3f}  {hit.id}  [{hit.collection}]")
        say(f"        {text[:WIDTH]}{'...' if len(text) > WIDTH else ''}")


def show_status(status: BedStatus) -> None:
    """Show where everything stands."""
    if not status.collections:
        say("nothing is indexed yet; `flowbed run` does it")
    for name, each in status.collections.items():
        # Where there is no vector index at all, none is needed yet.
        behind = 0 < each.unindexed_rows < each.rows
        unindexed = f", {each.unindexed_rows:,} not in the vector index yet" if behind else ""
        say(f"{name}: {each.rows:,} rows at version {each.version}, space {each.space}{unindexed}")
    counts = ", ".join(f"{number:,} {name}" for name, number in sorted(status.chunks.items()))
    say(f"chunks: {counts or 'none'}")
    if status.pending:
        say(f"uncommitted runs in {', '.join(status.pending)}; the next `flowbed run` commits them")
    say(f"dead letters: {status.dead_letters:,}")


def show_versions(found: Mapping[str, Sequence[Version]]) -> None:
    """Show the versions kept."""
    for name, versions in found.items():
        say(name)
        for each in versions:
            tags = f"  {', '.join(each.tags)}" if each.tags else ""
            say(
                f"  {each.version:>6}  {_time(each.created)}  {each.rows:>10,} rows  {each.bytes / 1e6:>8.1f} MB{tags}"
            )


def show_compactions(done: Mapping[str, Compaction]) -> None:
    """Show what was compacted."""
    for name, plan in done.items():
        parts = ["files merged"]
        if plan.partitions:
            parts.append(f"vector index built with {plan.partitions} partitions")
        elif plan.append:
            parts.append("vector index extended")
        if plan.forget:
            parts.append(f"{len(plan.forget)} old versions dropped")
        say(f"{name}: {', '.join(parts)}")


def show_reasons(reasons: Sequence[Reason]) -> None:
    """Show why chunks are found, or are not."""
    for each in reasons:
        row = each.chunk
        say(f"{row.id} [{row.collection}] {row.status.value}: {each.verdict}")
        say(f"  source {row.source}, document {row.document}, version {row.version} ({_time(row.version)})")
        if each.batch is not None:
            say(f"  batch file {each.batch.key}")
        if each.run is not None:
            say(f"  run {each.run.id[:12]} ({each.run.state}), delta {each.run.key}")


def show_letters(letters: Sequence[DeadLetter]) -> None:
    """Show the dead letters."""
    if not letters:
        say("no dead letters")
    for each in letters:
        say(f"{_time(each.at)}  {each.kind} of {each.owner}: {each.subject}")
        say(f"    {each.reason}" + (f" ({each.attempts} times)" if each.attempts > 1 else ""))


def _problems(title: str, problems: Sequence[Problem]) -> None:
    if problems:
        say(f"  {title}: {len(problems):,}")
    for problem in problems[:SHOWN]:
        say(f"    {problem.subject}: {problem.reason}")
    if len(problems) > SHOWN:
        say(f"    and {len(problems) - SHOWN:,} more; `flowbed dead-letters list` has those that failed")


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"


def _seconds(seconds: float) -> str:
    return f"{seconds:,.1f} s" if seconds < 120 else f"{seconds / 60:,.1f} min"  # noqa: PLR2004 - two minutes


def _time(microseconds: int) -> str:
    return datetime.fromtimestamp(microseconds / 1e6, UTC).strftime("%Y-%m-%d %H:%M:%S")
