"""A reranker that calls a provider over HTTP; what differs between vendors is their `RerankApi`."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from flowbed.embedding.providers.errors import ResponseErrors
from flowbed.embedding.providers.parsing import whole_number
from flowbed.embedding.providers.refusals import error_within
from flowbed.embedding.reranking import Reranked
from flowbed.embedding.unicode import require_unicode
from flowbed.errors import Rejected, Transient
from flowbed.records.values import count as counted

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from flowbed.embedding.providers.refusals import Refusal
    from flowbed.embedding.tokens import Counter
    from flowbed.http.client import HttpClient, HttpResponse

# Bytes of a response: its fields, and those of a result, which may repeat its text with up to 12 bytes a character.
ANSWER_BYTES, RESULT_BYTES, ESCAPED_BYTES = 2**20, 1_024, 12
MOST_UNITS = 10**6


@dataclass(frozen=True, kw_only=True)
class ParsedRanking:
    """A parsed response: a score for each text, in their order; tokens and search units billed, if it says so."""

    scores: Sequence[float]
    tokens: int | None = None
    units: int | None = None


class RerankApi(Protocol):
    """The request and response format of one vendor."""

    path: str

    def body(self, query: str, texts: Sequence[str]) -> Mapping[str, Any]:
        """Return the body of a request."""
        ...

    def read(self, payload: Any, count: int) -> ParsedRanking:  # parsed JSON
        """Parse the response for `count` texts.

        Raises:
            Transient: it is not what was requested.
        """
        ...

    def refused(self, response: HttpResponse) -> Refusal:
        """Interpret a refusal."""
        ...


@dataclass(frozen=True, kw_only=True)
class RerankTerms:
    """The terms of a provider: texts in a request; US dollars per million tokens, or per thousand search units.

    A price is None if it is unknown or not charged. `key` names the setting of the key.
    """

    most: int
    token_price: float | None = None
    unit_price: float | None = None
    key: str = "api_key"


class RemoteReranker:
    """A reranker of a provider: one request for each call, which is answered whole or not at all."""

    def __init__(
        self, model: str, api: RerankApi, provider: HttpClient, *, terms: RerankTerms, counter: Counter
    ) -> None:
        """Combine a vendor's format, a client and the terms."""
        self.model, self.most = model, terms.most
        self._api, self._provider, self._terms, self._counter = api, provider, terms, counter
        self._errors = ResponseErrors(api, provider, model=model, key=terms.key)

    async def rerank(self, query: str, texts: Sequence[str]) -> Reranked:
        """Score every text or none.

        Raises:
            Transient: the provider is busy, failing or unreachable, or its response cannot be trusted.
            Rejected: it refuses the query or a text.
            Misconfigured: the key, model, address or account cannot be used.
        """
        require_unicode([query, *texts])
        if not texts:
            return Reranked(scores=())
        if len(texts) > self.most:
            raise Rejected(
                f"{counted(len(texts), 'text')} to rerank; {self.model} takes {self.most:,} at once"
            )
        characters = sum(map(len, texts))
        response = await self._provider.post(
            self._api.path,
            self._api.body(query, texts),
            limit=ANSWER_BYTES + RESULT_BYTES * len(texts) + ESCAPED_BYTES * characters,
        )
        if not 200 <= response.status < 300:  # noqa: PLR2004 - as HTTP counts
            raise self._errors.of(response, self._errors.refusal(response), [query, *texts])
        if said := error_within(response):
            raise self._errors.within(response, said, [query, *texts])
        try:
            read = self._read(response, len(texts))
        except Transient as error:
            error.args = (f"{self._provider.label}: {error}",)
            raise
        tokens = read.tokens
        if tokens is None:
            tokens = sum(map(self._counter.count, texts)) + len(texts) * self._counter.count(query)
        return Reranked(scores=tuple(read.scores), tokens=tokens, cost_usd=self._cost(tokens, read.units))

    async def aclose(self) -> None:
        """Close the connections to the provider."""
        await self._provider.aclose()

    def _read(self, response: HttpResponse, count: int) -> ParsedRanking:
        if response.json is None:
            raise Transient("the response is not JSON, or incomplete")
        return self._api.read(response.json, count)

    def _cost(self, tokens: int, units: int | None) -> float:
        if self._terms.unit_price is not None:
            return self._terms.unit_price * (1 if units is None else units) / 1_000
        return 0.0 if self._terms.token_price is None else self._terms.token_price * tokens / 1_000_000


def scores_of(results: Any, count: int) -> list[float]:  # parsed JSON
    """Return the scores of `results`, a list of {index, relevance_score}, in the order of their texts.

    Raises:
        Transient: it is not such a list, or an index is missing, doubled or out of range, or a score is no number.
    """
    if not isinstance(results, list) or not all(isinstance(each, dict) for each in results):
        raise Transient("the response has no list of results")
    found: dict[int, float] = {}
    for each in results:
        index, score = each.get("index"), each.get("relevance_score")
        if not isinstance(index, int) or isinstance(index, bool) or not 0 <= index < count or index in found:
            raise Transient(
                f"the response has a result with index {str(index)[:20]} for {counted(count, 'text')}"
            )
        if not isinstance(score, int | float) or isinstance(score, bool) or not math.isfinite(score):
            raise Transient("the response has a score that is not a number")
        found[index] = float(score)
    if len(found) != count:
        raise Transient(f"the response has {counted(len(found), 'score')} for {counted(count, 'text')}")
    return [found[index] for index in range(count)]


def units_of(payload: Any) -> int | None:  # parsed JSON
    """Return the search units in {meta: {billed_units: {search_units}}}; None if there are none."""
    for name in ("meta", "billed_units", "search_units"):
        payload = payload.get(name) if isinstance(payload, dict) else None
    return whole_number(payload, most=MOST_UNITS)
