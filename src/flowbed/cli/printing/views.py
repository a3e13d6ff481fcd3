"""Results in words: collections, searches, versions, repairs and dead letters."""

from __future__ import annotations

import json
from itertools import groupby
from typing import TYPE_CHECKING, Any

from flowbed.cli.printing.formatting import FEW, at, problems, span
from flowbed.cli.printing.output import say
from flowbed.cli.printing.reports import SHOWN, show_live
from flowbed.errors import Rejected
from flowbed.records.plain import plain
from flowbed.records.values import count

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from flowbed.events.replay import Letter
    from flowbed.index.compaction import Compaction
    from flowbed.index.versions import Version
    from flowbed.ledger import Rollback
    from flowbed.maintenance.checklist import Checklist
    from flowbed.maintenance.doctor import Diagnosis
    from flowbed.maintenance.gc import Collected
    from flowbed.maintenance.inspect import BedStatus, Reason
    from flowbed.maintenance.repair import Repaired
    from flowbed.maintenance.verify import Verified
    from flowbed.pipeline.rollback import Released
    from flowbed.records import Problem, SearchResults

EXAMPLES = 5  # of a fault
WIDTH = 300  # characters of a hit's text that are shown


def read_where(text: str | None) -> dict[str, Any] | None:
    """Read a filter from the command line.

    Raises:
        Rejected: it is not JSON.
    """
    if text is None:
        return None
    try:
        where: dict[str, Any] = json.loads(text)
    except ValueError as error:
        raise Rejected(f'--where takes JSON such as \'{{"source": "handbook"}}\': {error}') from error
    return where


def show_hits(found: SearchResults) -> None:
    """Show the hits of a search."""
    if not found.hits:
        say("nothing found")
    for warning in found.warnings:
        say(f"  {warning}")
    for hit in found.hits:
        text = " ".join(hit.document.split())
        say(f"{hit.score:6.3f}  {hit.id}  [{hit.collection}]")
        say(f"        {text[:WIDTH]}{'...' if len(text) > WIDTH else ''}")
        if hit.matched:
            say(f"        words: {', '.join(hit.matched)}")
        if isinstance(url := hit.metadata.get("url"), str):
            say(f"        {url}")


def show_status(status: BedStatus) -> None:
    """Show the state of a project."""
    if not status.collections and not status.unreadable:
        say("nothing is indexed yet" + ("" if status.empty else "; start with `flowbed run`"))
    for name, each in status.collections.items():
        # A collection without any vector index is too small to need one.
        behind = 0 < each.unindexed_rows < each.rows
        unindexed = f", {each.unindexed_rows:,} not in the vector index yet" if behind else ""
        written = f", written {at(each.updated)}" if each.updated else ""
        say(
            f"{name}: {count(each.rows, 'row')} at version {each.version}, space {each.space}{written}{unindexed}"
        )
    for name, reason in status.unreadable.items():
        say(f"{name}: {reason}")
    counts = ", ".join(f"{number:,} {name}" for name, number in sorted(status.chunks.items()))
    say(f"chunks: {counts or 'none'}")
    if status.pending:
        say(f"uncommitted runs in {', '.join(status.pending)}; the next `flowbed run` commits them")
    show_live(status.submissions)
    for name, reason in status.withheld.items():
        say(f"{name}: {reason}")
    for name, reason in status.empty.items():
        say(f"warning: {name} {reason}")
    if status.repeated:
        say(f"{count(status.repeated, 'chunk')} failed in run after run; `flowbed doctor` says why")
    say(f"dead letters: {status.dead_letters:,}")


def show_versions(found: Mapping[str, Sequence[Version]], failures: Sequence[Problem] = ()) -> None:
    """Show the versions that are kept, and the collections that could not be read."""
    for name, versions in found.items():
        say(name)
        for each in versions:
            tags = f"  {', '.join(each.tags)}" if each.tags else ""
            say(
                f"  {each.version:>6}  {at(each.created)}  {each.rows:>10,} rows  {each.bytes / 1e6:>8.1f} MB{tags}"
            )
    problems("failed", failures)


def show_compactions(done: Mapping[str, Compaction], failures: Sequence[Problem] = ()) -> None:
    """Show what was compacted, and what could not be."""
    for name, plan in done.items():
        parts = ["files merged"]
        if plan.partitions:
            parts.append(f"vector index built with {count(plan.partitions, 'partition')}")
        elif plan.append:
            parts.append("vector index extended")
        if plan.join:
            parts.append("its segments joined")
        if plan.full_text is not None:
            parts.append(f"full-text index {'built' if plan.full_text == 'build' else 'extended'}")
        if plan.forget:
            parts.append(f"{count(len(plan.forget), 'old version')} dropped")
        say(f"{name}: {', '.join(parts)}")
    problems("failed", failures)


def verified_json(found: Mapping[str, Verified]) -> dict[str, Any]:
    """Return the JSON of a verification; `mended` is the former name of `repaired`."""
    return {
        "collections": {
            name: {
                **plain(each),
                "mended": plain(each.repaired),
                "rows_per_second": round(each.rows_per_second),
            }
            for name, each in found.items()
        },
        "faults": sum(fault.count for each in found.values() for fault in each.faults),
    }


def show_verified(found: Mapping[str, Verified]) -> None:
    """Show what a verification compared, and the faults that it found."""
    if not found:
        say("nothing is indexed yet; start with `flowbed run`")
    for name, each in found.items():
        state = "no faults" if not each.faults else "faults found"
        say(
            f"{name}: {count(each.rows, 'row')} against {count(each.chunks, 'chunk')} and"
            f" {count(each.deltas, 'delta')}, {state} ({span(each.seconds)}, {each.rows_per_second:,.0f} rows/s)"
        )
        for fault in each.faults:
            say(f"  {fault.what}")
            for example in fault.examples[:EXAMPLES]:
                say(f"    {example}")
            if fault.count > EXAMPLES:
                say(f"    and {fault.count - EXAMPLES:,} more")
        if each.repaired is not None:
            _show_repaired(each.repaired)
        elif each.faults:
            say(f"  `flowbed verify {name} --repair` fixes what can be fixed")


def _show_repaired(repaired: Repaired) -> None:
    for note in repaired.notes:
        say(f"  {note}")
    if repaired.removed:
        say(f"  {count(repaired.removed, 'row')} removed")
    if repaired.waiting:
        say(f"  {count(repaired.waiting, 'chunk')} wait for the next `flowbed run`")
    if repaired.withheld:
        say(f"  {repaired.withheld}")


def show_collected(done: Collected) -> None:
    """Show what gc deleted, or would delete."""
    if not done.objects:
        say("nothing to delete")
    problems("failed", done.failures)
    verb = "would be deleted" if done.dry_run else "deleted"
    for kind, number in sorted(done.objects.items()):
        say(f"{count(number, 'object')} of kind {kind} {verb}, {done.bytes[kind] / 1e6:,.1f} MB")


def diagnosis_json(found: Diagnosis) -> dict[str, Any]:
    """Return the JSON of a diagnosis; `mend` is the former name of `fix`."""
    return {**plain(found), "findings": [{**plain(each), "mend": each.fix} for each in found.findings]}


def show_diagnosis(found: Diagnosis) -> None:
    """Show every finding with the command that fixes it."""
    if not found.findings:
        say(f"{found.checks} checks found nothing wrong")
    for each in found.findings:
        say(f"{each.severity}: {each.subject}: {each.what}")
        say(f"    {each.fix}")


def show_checklist(found: Checklist) -> None:
    """Show every item below its stage, with how it was looked at, and the command that fixes it."""
    for stage, items in groupby(found.items, key=lambda item: (item.stage, item.how)):
        say(f"{stage[0]}  ({stage[1]})" if stage[1] else stage[0])
        for each in items:
            subject = "" if each.state == "not used" else f"{each.subject}: "
            say(f"  {each.state:<8}  {subject}{each.found}")
            if each.fix:
                say(f"            {each.fix}")


def show_rollback(done: Rollback) -> None:
    """Show what a rollback did."""
    if done.target == done.version:
        say(f"{done.collection} is already at version {done.target}; nothing was changed")
        return
    say(
        f"{done.collection}: version {done.version} has the contents of version {done.target};"
        f" {count(done.runs, 'run')} with {count(done.chunks, 'chunk')} reverted"
    )
    if done.runs:
        say(
            f"  `flowbed rollback {done.collection} --release` commits them again, without embedding anything"
        )


def show_release(released: Released) -> None:
    """Show what a release committed."""
    if released.runs:
        version = "" if released.version is None else f", version {released.version}"
        say(f"{released.collection}: {count(released.runs, 'run')} committed again{version}")
    elif not (released.again or released.refused):
        say(f"{released.collection}: there is nothing to release")
    if released.again:
        say(f"{count(released.again, 'run')} too old to be committed again; `flowbed run` embeds them again")
    problems("failed", released.refused)


def show_reasons(reasons: Sequence[Reason]) -> None:
    """Show the state of chunks, and what it means."""
    for each in reasons:
        row = each.chunk
        say(f"{row.id} [{row.collection}] {row.status.value}: {each.verdict}")
        say(f"  source {row.source}, document {row.document}, version {row.version} ({at(row.version)})")
        if each.batch is not None:
            say(f"  seen {at(each.batch.timestamp)}, batch file {each.batch.key}")
        if each.run is not None:
            say(f"  run {each.run.id[:12]} ({each.run.state}), delta {each.run.key}")
        if each.lost is not None and each.lost >= SHOWN:
            say(f"  lost {each.lost:.1%} of its characters, which are unknown to the model")
        if each.lost_advice:
            say(f"  warning: {each.lost_advice}")
        if each.submission is not None:
            say(f"  submission {each.submission.id} ({each.submission.state}), input {each.submission.key}")


def causes(letters: Sequence[Letter]) -> list[list[Letter]]:
    """Group dead letters of one kind, owner and reason: a refused job has one for each of its texts."""
    found: dict[tuple[str, str, str], list[Letter]] = {}
    for each in letters:
        found.setdefault((each.kind, each.owner, each.reason), []).append(each)
    return list(found.values())


def letters_json(letters: Sequence[Letter]) -> dict[str, Any]:
    """Return the JSON of dead letters: each one, and their causes with the number of each."""
    counted = [
        {
            "kind": group[0].kind,
            "owner": group[0].owner,
            "reason": group[0].reason,
            "count": len(group),
            "subject": group[0].subject,
        }
        for group in causes(letters)
    ]
    return {"dead_letters": letters, "causes": counted}


def show_letters(letters: Sequence[Letter]) -> None:
    """Show the dead letters; many of one cause together."""
    groups = causes(letters)
    if not letters:
        say("no dead letters")
    elif any(len(group) > FEW for group in groups):
        say(f"{count(len(letters), 'dead letter')} of {count(len(groups), 'cause')}; --json lists each")
    for group in groups:
        if len(group) > FEW:
            _show_cause(group)
        else:
            for each in group:
                _show_letter(each)


def _show_cause(group: Sequence[Letter]) -> None:
    first = group[0]
    some = ", ".join(each.subject for each in group[:FEW])
    say(f"{at(first.at)}  {len(group):,} of kind {first.kind} of {first.owner}: {some}, ...")
    say(f"    {first.reason}")
    if keys := list(dict.fromkeys(key for each in group for key in each.batches)):
        more = f" and {len(keys) - 1:,} more" if len(keys) > 1 else ""
        say(f"    in batch file {keys[0]}{more}")


def _show_letter(each: Letter) -> None:
    say(f"{at(each.at)}  {each.kind} of {each.owner}: {each.subject}")
    say(f"    {each.reason}" + (f" ({each.attempts} times)" if each.attempts > 1 else ""))
    for key in each.batches:
        if key != each.subject:
            say(f"    in batch file {key}")
