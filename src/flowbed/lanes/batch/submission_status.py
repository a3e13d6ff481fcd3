"""The status of submissions, which of them need attention, and the command that fixes each. No I/O."""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from flowbed.lanes.choice import format_duration

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from flowbed.embedding.batch_api import JobTerms
    from flowbed.ledger import SubmissionRow

# Submitting the largest file takes minutes; a provider's queue moves within an hour, and cron starts runs as often.
SUBMIT_WITHIN, COLLECT_WITHIN = 600_000_000, 3_600_000_000  # µs


def describe(row: SubmissionRow) -> str:
    """Describe the status of a submission in a few words."""
    if row.ended:
        return f"{row.state} {_at(row.ended)}" + (f": {row.error}" if row.error else "")
    if row.state == "submitted":
        done = f"{row.done + row.failed:,} of {row.texts:,} texts done"
        ending = ", being cancelled" if row.cancel else ""
        return f"with the provider since {_at(row.submitted)}, {done}{ending}"
    status = "being submitted" if row.state == "submitting" else "waiting to be submitted"
    return status + (f": {row.error}" if row.error else "")


def _at(microseconds: int) -> str:
    return datetime.fromtimestamp(microseconds / 1e6, UTC).strftime("%Y-%m-%d %H:%M")


@dataclass(frozen=True, kw_only=True)
class Overdue:
    """A submission that needs attention: its problem, and the command that fixes it."""

    submission: str
    problem: str
    command: str


def find_overdue(
    rows: Sequence[SubmissionRow],
    *,
    space: str,
    terms: JobTerms | None,
    now: int,
    dead: Callable[[str], bool],
) -> Iterator[Overdue]:
    """Find the live submissions that need attention; `space` (JSON) and `terms` are those of the model that is set."""
    busy = {row.account for row in rows if row.state == "submitted"}
    for row in rows:
        held = bool(row.worker) and row.until >= now and not dead(row.worker)
        found = (
            _of_another_model(row, space)
            if row.space != space
            else _of_this_model(row, terms, now, row.account in busy)
        )
        if found is not None and not held:
            yield found


def _of_another_model(row: SubmissionRow, space: str) -> Overdue:
    made, is_set = json.loads(row.space)["model"], json.loads(space)["model"]
    return Overdue(
        submission=row.id,
        problem=f"it was gathered for model {made}, and the model set is {is_set} (or has other options): its results"
        " are collected once that model is set again",
        command="flowbed run",
    )


def _of_this_model(row: SubmissionRow, terms: JobTerms | None, now: int, busy: bool) -> Overdue | None:
    if terms is None:
        return Overdue(
            submission=row.id,
            problem="with the present settings the model has no Batch API, so its results are not collected",
            command="flowbed run",
        )
    if 0 < row.deadline < now - SUBMIT_WITHIN:
        ago = format_duration((now - row.deadline) / 1e6)
        return Overdue(
            submission=row.id,
            problem=f"its deadline was {ago} ago, and {row.texts - row.done:,} of {row.texts:,} texts have no result"
            " yet",
            command="flowbed run",
        )
    if row.state != "submitted":
        return _not_submitted(row, now, busy)
    if row.submitted + terms.seconds * 1_000_000 < now - COLLECT_WITHIN:
        ago = format_duration((now - row.submitted) / 1e6)
        return Overdue(
            submission=row.id,
            problem=f"it was submitted {ago} ago, and its results were not collected",
            command=f"flowbed submissions poll {row.id}",
        )
    return None


def _not_submitted(row: SubmissionRow, now: int, busy: bool) -> Overdue | None:
    why = f" ({row.error})" if row.error else ""
    if row.state == "submitting" and row.created < now - SUBMIT_WITHIN:
        return Overdue(
            submission=row.id,
            problem=f"submitting it was begun and not completed{why}",
            command=f"flowbed submissions submit {row.id}",
        )
    # Behind others of the same account it may only be waiting for room in the queue.
    if row.state == "ready" and row.created < now - COLLECT_WITHIN and (row.error or not busy):
        ago = format_duration((now - row.created) / 1e6)
        return Overdue(
            submission=row.id,
            problem=f"it was gathered {ago} ago, and not submitted{why}",
            command=f"flowbed submissions submit {row.id}",
        )
    return None
