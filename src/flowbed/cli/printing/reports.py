"""Plans, runs, submissions and spending in words."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from flowbed.cli.printing.formatting import at, problems, span
from flowbed.cli.printing.output import say
from flowbed.escaping import visible
from flowbed.lanes.batch.submission_status import describe
from flowbed.lanes.budget import dollars
from flowbed.lanes.choice import format_duration
from flowbed.lanes.outcome import UNANSWERED
from flowbed.records.values import count

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from flowbed.lanes.batch.find import Unembedded
    from flowbed.lanes.batch.submit import Submitted
    from flowbed.lanes.outcome import Polled
    from flowbed.ledger import Spent, SubmissionRow
    from flowbed.records import Lane, Plan, Report

WIDEST = 60  # characters of a name in a table
ALIKE = 0.0005  # rounds to 0.0 %
SHOWN = 0.001  # the least share of lost characters that is worth a line


def show_plan(plan: Plan) -> None:
    """Show what a run would do."""
    if plan.plan_id is None:
        undone = plan.empty or plan.withheld or any(not each.skipped for each in plan.problems)
        say("nothing to do" + ("" if undone else ": the index is in step with its sources"))
    else:
        say(f"plan {plan.plan_id}")
        reuse = plan.reuse
        written = f"{plan.new:,} new, {plan.changed:,} changed, {plan.waiting:,} left by earlier runs"
        submitted = f" {reuse['submitted']:,} with the provider already," if reuse["submitted"] else ""
        rows = [
            ("documents", plan.documents, "new, changed or gone"),
            ("chunks", plan.new + plan.changed + plan.waiting, f"to index: {written}"),
            ("", plan.deleted, "to delete"),
            (
                "reused",
                plan.reused,
                (
                    f"need no embedding: {reuse['repeated']:,} repeated,{submitted} {reuse['cached']:,} in the vector"
                    f" cache, {reuse['indexed']:,} in the index"
                ),
            ),
            ("tokens", plan.tokens, f"to embed{_counted(plan)}"),
        ]
        wide = max(len(f"{number:,}") for _, number, _ in rows)
        for title, number, note in rows:
            say(f"  {title:<10} {number:>{wide},} {note}")
        _show_lanes(plan)
        if plan.lost >= SHOWN:
            say(f"  {'lost':<10} {plan.lost:.1%} of the characters, which are unknown to the model")
        if plan.lost_advice:
            say(f"  warning: {plan.lost_advice}")
    problems("skipped", [problem for problem in plan.problems if problem.skipped])
    problems("failed", [problem for problem in plan.problems if not problem.skipped])
    _show_empty(plan.empty)
    for name, reason in plan.withheld.items():
        say(f"  {name}: {reason}")
    if plan.plan_id is not None:
        say(f"`flowbed run --plan {plan.plan_id}` does just this")


def _show_empty(empty: Mapping[str, str]) -> None:
    for name, reason in empty.items():
        say(f"  warning: {name} lists no documents: {reason}")


def _counted(plan: Plan) -> str:
    """Say how exact the number of tokens is, if they cost anything."""
    if not plan.tokens or not any(lane is not None and lane.cost_usd for lane in plan.lanes.values()):
        return ""
    if plan.tokens_exact:
        return ", counted as the provider bills them"
    if plan.error_seen is None:
        return ", an estimate: no run of this model was billed yet"
    if abs(plan.error_seen) < ALIKE:
        return ", an estimate: earlier runs were billed what was planned"
    more = "more" if plan.error_seen > 0 else "less"
    return f", an estimate: earlier runs were billed {abs(plan.error_seen):.1%} {more}"


def _show_lanes(plan: Plan) -> None:
    if not plan.tokens:
        return
    for name, lane in plan.lanes.items():
        if lane is not None:
            took = _timed(plan) if name == "realtime" else _waited(plan)
            say(f"  {name:<10} {dollars(lane.cost_usd)}, about {_about(name, lane)} {took}")
    if plan.lanes["batch"] is not None:
        say(f"  {'lane':<10} {plan.lane}: {plan.lane_why}")


def _about(name: str, lane: Lane) -> str:
    return span(lane.seconds) if name == "realtime" else format_duration(lane.seconds)


def _timed(plan: Plan) -> str:
    if not plan.timed_runs:
        return "(a guess: no run of this model was timed yet)"
    runs = "run was" if plan.timed_runs == 1 else f"{plan.timed_runs} runs were"
    return f"(as the last {runs} timed)"


def _waited(plan: Plan) -> str:
    if not plan.timed_submissions:
        return "(a guess: no submission has ended yet)"
    last = "submission" if plan.timed_submissions == 1 else f"{plan.timed_submissions} submissions"
    return f"(as the last {last} took at most, but for one in ten)"


def show_report(report: Report) -> None:
    """Show what a run did."""
    if report.planned is not None and report.planned.already:
        say(f"plan {report.planned.plan_id}: everything in it was done already")
    say(
        f"{count(report.fetched, 'document')} fetched; {count(report.chunks, 'chunk')} indexed,"
        f" {report.deleted:,} deleted in {span(report.seconds)}"
    )
    say(
        f"  embedded {count(report.embedded, 'text')} ({report.tokens:,} tokens, {dollars(report.cost_usd)}),"
        f" reused {count(report.reused, 'vector')}"
    )
    for name, place in report.published.items():
        say(f"  published {name}: {place}")
    if report.perhaps_billed_usd:
        say(f"  perhaps billed {dollars(report.perhaps_billed_usd)} more, for requests that got no response")
    if report.planned is not None and not report.planned.already:
        planned = report.planned
        took = "" if report.submitted else f"; embedding took {span(report.embedding_seconds)}"
        say(
            f"  planned  {count(planned.tokens, 'token')}, {dollars(planned.cost_usd)}, {span(planned.seconds)}{took}"
        )
    _show_what_waits(report)
    if report.truncated:
        say(f"  {count(report.truncated, 'chunk')}, longer than the model's window, truncated")
    for name, version in report.versions.items():
        say(f"  {name}: version {version}")
    problems("skipped", report.skipped)
    problems("failed", report.failures)
    _show_empty(report.empty)
    for name, reason in [*report.withheld.items(), *report.drift.items()]:
        say(f"  {name}: {reason}")


def _show_what_waits(report: Report) -> None:
    if report.submitted:
        say(f"  {count(report.submitted, 'text')} gathered for the provider's Batch API")
    if report.submissions:
        say(
            f"  {count(len(report.submissions), 'submission')} without results yet; `flowbed run` or"
            " `flowbed submissions poll` collects them"
        )
    if report.waiting:
        say(f"  {count(report.waiting, 'chunk')} left for another run")


def show_live(rows: Sequence[SubmissionRow]) -> None:
    """Show submissions and the state of each."""
    for row in rows:
        say(f"submission {row.id}: {count(row.texts, 'text')}, {row.tokens:,} tokens, {describe(row)}")
        facts = [f"gathered {at(row.created)}"]
        facts += [f"deadline {at(row.deadline)}"] if row.deadline else []
        facts += [f"job {row.job}"] if row.job else []
        facts += [f"billed {count(row.billed, 'token')}, {dollars(row.cost_usd)}"] if row.ended else []
        say(f"    {', '.join(facts)}")


def show_gathered(found: Unembedded) -> None:
    """Show what was gathered into submissions."""
    if not (found.chunks or found.waiting or found.reused or found.failures or found.stopped):
        say("nothing waits to be embedded")
    for submission in found.submissions:
        say(f"submission {submission}")
    if found.submissions:
        say(
            f"  {count(found.chunks, 'chunk')}, {count(found.texts, 'text')}, {found.tokens:,} tokens;"
            " `flowbed submissions submit` sends them"
        )
    if found.waiting:
        say(f"  {count(found.waiting, 'chunk')} wait for a submission that already has their text")
    if found.reused:
        say(f"  {count(found.reused, 'chunk')} left to `flowbed run`: their vectors are cached")
    if found.stopped:
        say(f"  stopped: {found.stopped}")
    problems("failed", found.failures)


def show_submitted(done: Submitted) -> None:
    """Show what was submitted."""
    if not (done.submitted or done.waiting or done.failures):
        say("nothing is ready to be submitted")
    for submission in done.submitted:
        say(f"submission {submission} submitted")
    for submission in done.waiting:
        say(
            f"submission {submission} waits for room in the provider's queue, its cancellation or another worker"
        )
    problems("failed", done.failures)


def show_polled(polled: Polled) -> None:
    """Show which submissions have results, and which are pending."""
    if not (polled.pending or polled.ended):
        say("no submission is live")
    show_live([*polled.ended, *polled.pending])
    tally = polled.tally
    if polled.ended:
        say(
            f"{count(tally.chunks, 'chunk')} indexed: {count(tally.sent, 'text')}, {tally.tokens:,} tokens,"
            f" {dollars(tally.cost_usd)}"
        )
    for name, version in tally.versions.items():
        say(f"  {name}: version {version}")
    problems("failed", tally.failures)


def spending_json(by: str, spent: Sequence[Spent]) -> dict[str, Any]:
    """Return the JSON of spending: planned against billed."""
    rows = [{**each._asdict(), "difference": each.billed - each.planned} for each in spent]
    return {
        "by": by,
        "rows": rows,
        "planned": sum(each.planned for each in spent),
        "billed": sum(each.billed for each in spent),
        "cost_usd": sum(each.cost_usd for each in spent),
    }


def show_spending(by: str, spent: Sequence[Spent]) -> None:
    """Show spending: planned against billed."""
    if not spent:
        say("nothing was paid for")
        return
    names = [f"{each.source}: {each.name}" if each.source else each.name for each in spent]
    lines = [
        (
            _named(by, name),
            f"{each.texts:,}",
            f"{each.planned:,}",
            f"{each.billed:,}",
            f"{each.billed - each.planned:+,}",
            _part(each),
            f"{dollars(each.cost_usd)}",
        )
        for name, each in zip(names, spent, strict=True)
    ]
    titles = (by, "texts", "planned", "billed", "difference", "", "cost")
    wide = [max(len(row[place]) for row in (titles, *lines)) for place in range(len(titles))]
    for row in (titles, *lines):
        rest = "  ".join(f"{each:>{size}}" for each, size in zip(row[1:], wide[1:], strict=True))
        say(f"{row[0]:<{wide[0]}}  {rest}".rstrip())


def _named(by: str, name: str) -> str:
    if by == "lane" and name == UNANSWERED:
        return f"{name} (perhaps billed)"
    return visible(name)[:WIDEST] or "(no document: not needed any more, or perhaps billed)"


def _part(each: Spent) -> str:
    return f"{(each.billed - each.planned) / each.planned:+.2%}" if each.planned else "-"
