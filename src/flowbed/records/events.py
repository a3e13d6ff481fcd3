"""What was done with events."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

    from flowbed.records.documents import Problem
    from flowbed.records.reports import Report


@dataclass(frozen=True, kw_only=True)
class Handled:
    """What an event, or a listing, told of, and what was embedded; all but `report` count or name batch files.

    `batches` were queued, and `read` of other programs were new; `already` were known. `later` belong to a fetch under
    way, and are embedded after it. `ignored` counts by reason what needed no work. `failures` could not be taken in;
    `messages` are the ids of the queue's messages that told of them or of `later` ones, and should be sent again.
    `batch_ids` are the ids of the `batches`. `report` is None where nothing had to be embedded.
    """

    batches: int = 0
    read: int = 0
    already: int = 0
    later: tuple[str, ...] = ()
    ignored: Mapping[str, int] = field(default_factory=dict)
    failures: tuple[Problem, ...] = ()
    messages: tuple[str, ...] = ()
    batch_ids: tuple[str, ...] = ()
    report: Report | None = None
