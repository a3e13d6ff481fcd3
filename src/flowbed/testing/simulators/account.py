"""What a simulator received and how it answered."""

from __future__ import annotations

from collections import Counter, deque
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from flowbed.testing.simulators.wire import Call

# Texts of the recent requests that are kept; totals go on.
KEPT = 200_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Exchange:
    """One request and its answer.

    `status` is 0 if there was none because the connection was cut or the client had gone; `billed` are tokens; `faults`
    are the kinds that applied; `key` is the API key of the request.
    """

    method: str
    path: str
    key: str
    model: str
    input_type: str
    texts: Sequence[str]
    status: int
    billed: int
    faults: Sequence[str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Totals:
    """Sums over all requests.

    `twice_at_once` counts texts that were requested while they were already being answered. `billed` are tokens,
    including those of jobs; `billed_texts` counts the texts they were for, and `billed_again` how often a text was
    billed beyond its first time.
    """

    requests: int
    texts: int
    billed: int
    billed_texts: int
    billed_again: int
    twice_at_once: int
    most_at_once: int
    statuses: dict[int, int]
    faults: dict[str, int]


class Account:
    """All requests so far; `billed_again` counts, for each text billed more than once, the times beyond the first."""

    def __init__(self) -> None:
        """Start empty."""
        self.forget()

    def forget(self) -> None:
        """Reset everything."""
        self.exchanges: deque[Exchange] = deque()
        self._held = 0
        self._texts = self._billed = self._twice = self._most = 0
        self._statuses: Counter[int] = Counter()
        self._faults: Counter[str] = Counter()
        self._working: Counter[tuple[str, str, str]] = Counter()
        # By hash: a load test bills more texts than fit into memory.
        self._paid: Counter[int] = Counter()
        self.billed_again: Counter[str] = Counter()
        self._at_once = 0

    def begin(self, call: Call | None) -> None:
        """Record that a call has started."""
        self._at_once += 1
        self._most = max(self._most, self._at_once)
        if call is not None:
            for text in set(call.texts):
                name = call.model, call.input_type, text
                self._twice += self._working[name] > 0
                self._working[name] += 1

    def end(self, exchange: Exchange, call: Call | None) -> None:
        """Record how a started call ended."""
        self._at_once = max(0, self._at_once - 1)
        if call is not None:
            for text in set(call.texts):
                name = call.model, call.input_type, text
                self._working[name] -= 1
                if self._working[name] <= 0:
                    del self._working[name]
        self._texts += len(exchange.texts)
        self._billed += exchange.billed
        if call is not None and exchange.billed:
            self.bill(call)
        self._statuses[exchange.status] += 1
        self._faults.update(exchange.faults)
        self.exchanges.append(exchange)
        self._held += 1 + len(exchange.texts)
        while self._held > KEPT and len(self.exchanges) > 1:
            self._held -= 1 + len(self.exchanges.popleft().texts)

    def bill(self, call: Call) -> None:
        """Record that a call was billed, now or in a job."""
        for text in call.texts:
            name = hash((call.model, call.input_type, text))
            self._paid[name] += 1
            if self._paid[name] > 1:
                self.billed_again[text] += 1

    def bill_job(self, call: Call) -> None:
        """Record what one line of a job cost."""
        self._texts += len(call.texts)
        self._billed += call.tokens
        self.bill(call)

    def times_billed(self, model: str, text: str, input_type: str = "") -> int:
        """Return how often a text was billed."""
        return self._paid[hash((model, input_type, text))]

    def totals(self) -> Totals:
        """Sum up everything."""
        return Totals(
            requests=self._statuses.total(),
            texts=self._texts,
            billed=self._billed,
            billed_texts=len(self._paid),
            billed_again=self.billed_again.total(),
            twice_at_once=self._twice,
            most_at_once=self._most,
            statuses=dict(self._statuses),
            faults=dict(self._faults),
        )
