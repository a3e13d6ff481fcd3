"""Submissions as state machines pass them on: by key, by id, and by what they carry."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from flowbed.errors import Rejected
from flowbed.lanes.batch.lifecycle import should_end
from flowbed.records.values import shown

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence

    from flowbed.bed import Flowbed
    from flowbed.ledger import Ledger, SubmissionRow

KEY = re.compile(r"(?:^|/)submissions/(?P<submission>[^/]+)/input\.jsonl\Z")
TYPES = ("line", "word")
# Every so often (µs), listing starts at another submission, so that those that are stuck do not keep back the others:
# as often as the schedule of poll-store.
ROTATION = 15 * 60 * 1_000_000


def batch_type(event: Mapping[str, Any], bed: Flowbed) -> Collection[str] | None:
    """Return the collections of the `batch_type` of an event: `line` or `word`, or None for all.

    Raises:
        Rejected: it is something else.
    """
    value = event.get("batch_type")
    if value is None:
        return None
    if value not in TYPES:
        raise Rejected(f"batch_type has to be line or word, not {shown(value)}", param="batch_type")
    prefixes = {
        f"{each.collection}-" if each.collection else ""
        for each in bed.settings.sources.values()
        if each.kind == "receipts"
    }
    return {f"{prefix}{value}s" for prefix in prefixes or {""}}


def submission_of(key: str) -> str:
    """Return the id of the submission whose input has a key.

    Raises:
        Rejected: no input has such a key.
    """
    match = KEY.search(key)
    if match is None:
        raise Rejected(
            f"s3_key has to be one that find_unembedded returned, not {shown(key)}", param="s3_key"
        )
    return match["submission"]


async def carries(row: SubmissionRow, collections: Collection[str] | None, ledger: Ledger) -> bool:
    """Return whether a submission has chunks of one of these collections; one without chunks counts as all."""
    if collections is None:
        return True
    any_chunk = False
    async for page in ledger.chunks.submitted(row.id):
        any_chunk = any_chunk or bool(page)
        if any(chunk.collection in collections for chunk in page):
            return True
    return not any_chunk


async def of_this_model(bed: Flowbed) -> list[SubmissionRow]:
    """Return the live submissions of the project's model, oldest first."""
    rows = await bed.submissions()
    if not rows:
        return []
    space = (await bed.open_model(bed.model)).space.to_json()
    return [row for row in rows if row.space == space]


def to_poll(rows: Sequence[SubmissionRow], *, now: int, limit: int) -> list[SubmissionRow]:
    """Choose the submissions to poll next, oldest first, from a start that moves with the time (µs).

    Those that were not submitted are among them only where a poll has to end them.
    """
    wanted = [row for row in rows if row.state == "submitted" or should_end(row, now)]
    if len(wanted) <= limit:
        return wanted
    start = now // ROTATION * limit % len(wanted)
    return [*wanted[start:], *wanted[:start]][:limit]
