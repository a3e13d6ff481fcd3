"""The outcome of embedding texts, on either lane."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

from flowbed.lanes.failures import RunStats

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from flowbed.ledger import SubmissionRow


# The lane under which the ledger records requests that brought no response.
UNANSWERED = "unanswered"


class Paid(NamedTuple):
    """The tokens of one text that was sent: as planned, and as billed."""

    planned: int
    billed: int


@dataclass
class Outcome:
    """A vector or a reason for each text of one run, by text_hash.

    `paid` are the texts that a provider embedded; `perhaps_billed` has the tokens of each text that was sent without a
    response, once for each time, and of texts sent to find out whether the provider answers. `unsent` texts were not
    sent (again): the budget was spent, or, as `retry_later` says, the provider asked for a longer pause than a run
    waits. `cost_usd` is what the realtime lane paid.
    """

    vectors: dict[str, NDArray[np.float32]] = field(default_factory=dict)
    failures: dict[str, tuple[str, str]] = field(default_factory=dict)
    truncated: set[str] = field(default_factory=set)
    unsent: set[str] = field(default_factory=set)
    retry_later: str = ""
    paid: dict[str, Paid] = field(default_factory=dict)
    cost_usd: float = 0.0
    perhaps_billed: list[int] = field(default_factory=list)

    @property
    def sent(self) -> int:
        """The number of distinct texts that a provider embedded."""
        return len(self.paid)

    @property
    def planned(self) -> int:
        """Their tokens, as planned."""
        return sum(each.planned for each in self.paid.values())

    @property
    def tokens(self) -> int:
        """Their tokens, as billed."""
        return sum(each.billed for each in self.paid.values())


@dataclass
class Polled:
    """What a poll did: what was committed, the submissions that are still live, and those that have ended.

    Those `blocked` stay live until a setting changes, however long one waits.
    """

    tally: RunStats = field(default_factory=RunStats)
    pending: list[SubmissionRow] = field(default_factory=list)
    blocked: list[str] = field(default_factory=list)
    ended: list[SubmissionRow] = field(default_factory=list)
