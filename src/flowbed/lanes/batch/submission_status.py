"""Standing: how submissions are, and which of them somebody should look after, by which command. No I/O."""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from flowbed.lanes.choice import spelt

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from flowbed.embedding.batch_api import JobTerms
    from flowbed.ledger import SubmissionRow

# Handing in takes minutes for the largest file; a provider's queue moves within an hour, and a run from cron comes by.
SUBMIT_WITHIN, COLLECT_WITHIN = 600_000_000, 3_600_000_000  # µs


def stands(row: SubmissionRow) -> str:
    """Say in a few words how a submission is."""
    if row.ended:
        return f"{row.state} {_at(row.ended)}" + (f": {row.error}" if row.error else "")
    if row.state == "submitted":
        done = f"{row.done + row.failed:,} of {row.texts:,} texts done"
        ending = ", its end was asked for" if row.cancel else ""
        return f"with the provider since {_at(row.submitted)}, {done}{ending}"
    what = "being handed in" if row.state == "submitting" else "waiting to be handed in"
    return what + (f": {row.error}" if row.error else "")


def _at(microseconds: int) -> str:
    return datetime.fromtimestamp(microseconds / 1e6, UTC).strftime("%Y-%m-%d %H:%M")


@dataclass(frozen=True, kw_only=True)
class Overdue:
    """One submission that something is wrong with: what, and the command that mends it."""

    submission: str
    what: str
    mend: str


def overdue(
    rows: Sequence[SubmissionRow],
    *,
    space: str,
    terms: JobTerms | None,
    now: int,
    dead: Callable[[str], bool],
) -> Iterator[Overdue]:
    """Find what is wrong with live submissions; `space` (JSON) and `terms` are those of the model that is set."""
    busy = {row.account for row in rows if row.state == "submitted"}
    for row in rows:
        held = bool(row.worker) and row.until >= now and not dead(row.worker)
        found = (
            _of_another(row, space) if row.space != space else _of_this(row, terms, now, row.account in busy)
        )
        if found is not None and not held:
            yield found


def _of_another(row: SubmissionRow, space: str) -> Overdue:
    made, is_set = json.loads(row.space)["model"], json.loads(space)["model"]
    return Overdue(
        submission=row.id,
        what=f"it was gathered for model {made}, and the one set is {is_set} (or has other options): its answers are"
        " collected once that model is set again",
        mend="flowbed run",
    )


def _of_this(row: SubmissionRow, terms: JobTerms | None, now: int, busy: bool) -> Overdue | None:
    if terms is None:
        return Overdue(
            submission=row.id,
            what="the model has no Batch API as it is set now, so that its answers are not collected",
            mend="flowbed run",
        )
    if 0 < row.deadline < now - SUBMIT_WITHIN:
        ago = spelt((now - row.deadline) / 1e6)
        return Overdue(
            submission=row.id,
            what=f"its deadline was {ago} ago, and {row.texts - row.done:,} of {row.texts:,} texts have no answer yet",
            mend="flowbed run",
        )
    if row.state != "submitted":
        return _not_handed_in(row, now, busy)
    if row.submitted + terms.seconds * 1_000_000 < now - COLLECT_WITHIN:
        return Overdue(
            submission=row.id,
            what=f"it was handed in {spelt((now - row.submitted) / 1e6)} ago, and its answers were not collected",
            mend=f"flowbed submissions poll {row.id}",
        )
    return None


def _not_handed_in(row: SubmissionRow, now: int, busy: bool) -> Overdue | None:
    why = f" ({row.error})" if row.error else ""
    if row.state == "submitting" and row.created < now - SUBMIT_WITHIN:
        return Overdue(
            submission=row.id,
            what=f"somebody began to hand it in, and did not end{why}",
            mend=f"flowbed submissions submit {row.id}",
        )
    # Behind others of the same account it may only have to wait for room in the queue.
    if row.state == "ready" and row.created < now - COLLECT_WITHIN and (row.error or not busy):
        return Overdue(
            submission=row.id,
            what=f"it was gathered {spelt((now - row.created) / 1e6)} ago, and not handed in{why}",
            mend=f"flowbed submissions submit {row.id}",
        )
    return None
