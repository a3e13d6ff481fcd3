"""The tests that every reranker must pass: subclass the contract; that of a provider also names a simulator."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING

import pytest
import pytest_asyncio

from flowbed.embedding.reranking import open_reranker
from flowbed.errors import Error, Misconfigured, Rejected, Transient
from flowbed.testing.simulators.faults import Fault
from flowbed.testing.simulators.serving.running import running
from flowbed.testing.simulators.simulator import Simulator

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping
    from pathlib import Path

    from flowbed.embedding.reranking import Reranker
    from flowbed.testing.simulators.faults import Kind
    from flowbed.testing.simulators.wire import Api

KEY = "sk-of-the-contract-7f3a9c"
QUERY = "how are the keys rotated"
TEXTS = ("Tea is served at four.", "The keys are rotated each month.", "Cats sleep.")
PRIVATE = "a text of which no word may be repeated to anybody, for it is private"


class RerankerContract(ABC):
    """Tests of any reranker."""

    @abstractmethod
    def open_reranker(self, folder: Path) -> Reranker:
        """Open it; it may keep files in `folder`."""

    @pytest_asyncio.fixture
    async def reranker(self, tmp_path: Path) -> AsyncIterator[Reranker]:
        """Open the reranker for a test, and close it."""
        opened = self.open_reranker(tmp_path)
        yield opened
        await opened.aclose()

    async def test_rerank_scores_belong_to_the_texts_in_their_order(self, reranker: Reranker) -> None:
        """In another order, each text has the same score."""
        found = await reranker.rerank(QUERY, TEXTS)
        turned = await reranker.rerank(QUERY, TEXTS[::-1])
        assert len(found.scores) == len(TEXTS)
        assert turned.scores[::-1] == pytest.approx(found.scores, abs=1e-4)

    async def test_rerank_no_texts_has_no_scores(self, reranker: Reranker) -> None:
        """Nothing is asked."""
        assert (await reranker.rerank(QUERY, [])).scores == ()

    async def test_rerank_more_texts_than_most_is_rejected(self, reranker: Reranker) -> None:
        """Nothing is cut off."""
        with pytest.raises(Rejected, match="to rerank"):
            await reranker.rerank(QUERY, ["a"] * (reranker.most + 1))

    async def test_rerank_text_that_is_not_unicode_is_rejected(self, reranker: Reranker) -> None:
        """No JSON can hold it."""
        with pytest.raises(Rejected):
            await reranker.rerank(QUERY, ["a", "\ud800"])


class ProviderRerankerContract(RerankerContract):
    """Tests of a reranker that calls a provider, against a simulator that fails as providers do."""

    model: str  # as vendor:name

    @abstractmethod
    def api(self) -> Api:
        """Create the simulated API; it accepts KEY."""

    @abstractmethod
    def options(self, url: str) -> Mapping[str, str]:
        """Return the options that make the reranker call `url`; the contract adds its key."""

    @pytest_asyncio.fixture(autouse=True)
    async def served(self) -> AsyncIterator[None]:
        """Serve the simulator during a test."""
        self.simulator = Simulator(self.api())
        async with running(self.simulator) as url:
            self.url = url
            yield

    def open_reranker(self, folder: Path, **changes: str) -> Reranker:
        """Open the reranker, with the contract's key."""
        options = {"api_key": KEY, **self.options(self.url), **changes}
        return open_reranker(self.model, cache=folder, options=options)

    async def failure(self, reranker: Reranker, fault: Fault) -> Error:
        """Order a fault, and return the resulting error, which must reveal no secret."""
        self.simulator.order(fault)
        with pytest.raises(Error) as raised:
            await reranker.rerank(QUERY, ["one", PRIVATE])
        message = f"{raised.value} {raised.value!r}"
        assert KEY not in message
        assert PRIVATE[:20] not in message
        return raised.value

    async def test_rerank_relevant_text_is_first_and_costs_what_is_billed(self, reranker: Reranker) -> None:
        """One request is sent for all texts."""
        found = await reranker.rerank(QUERY, TEXTS)
        assert max(found.scores) == found.scores[1]
        assert found.tokens > 0
        assert found.cost_usd > 0
        assert len(self.simulator.account.exchanges) == 1

    async def test_rate_limited_response_tells_the_wait(self, reranker: Reranker) -> None:
        """A 429 says when to ask again."""
        error = await self.failure(reranker, Fault(kind="rate_limited", retry_after=3.0))
        assert isinstance(error, Transient)
        assert error.retry_after is not None

    @pytest.mark.parametrize("kind", ["cut", "truncated", "garbled", "missing", "not_finite"])
    async def test_untrustworthy_response_is_transient(self, reranker: Reranker, kind: Kind) -> None:
        """Nothing is used of a response that is incomplete, not JSON, or lacks a score."""
        assert isinstance(await self.failure(reranker, Fault(kind=kind)), Transient)

    @pytest.mark.parametrize("status", [500, 503])
    async def test_server_error_is_transient(self, reranker: Reranker, status: int) -> None:
        """From a gateway, with a page of HTML."""
        assert isinstance(await self.failure(reranker, Fault(kind="gateway", status=status)), Transient)

    async def test_exhausted_quota_is_misconfigured(self, reranker: Reranker) -> None:
        """A person has to look at the account."""
        assert isinstance(await self.failure(reranker, Fault(kind="quota")), Misconfigured)

    async def test_refused_key_is_misconfigured_and_named(self, tmp_path: Path) -> None:
        """The advice names the variable of the key, and nothing shows the key."""
        reranker = self.open_reranker(tmp_path, api_key="sk-of-somebody-else")
        with pytest.raises(Misconfigured) as raised:
            await reranker.rerank(QUERY, TEXTS)
        assert "sk-of-somebody-else" not in str(raised.value)
        assert "API_KEY" in raised.value.advice
        await reranker.aclose()
