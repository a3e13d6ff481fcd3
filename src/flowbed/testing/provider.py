"""The tests that every provider's embedder must pass: subclass the contract, name the model and a simulator of its API.

docs/providers.md shows how.
"""

from __future__ import annotations

from abc import abstractmethod
from typing import TYPE_CHECKING

import numpy as np
import pytest
import pytest_asyncio

from flowbed.embedding import Closes, open_embedder
from flowbed.errors import Error, Misconfigured, Rejected, Transient
from flowbed.testing.embedding import AGREE, EmbedderContract
from flowbed.testing.simulators.faults import Fault
from flowbed.testing.simulators.serving.running import running
from flowbed.testing.simulators.simulator import Simulator

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping
    from pathlib import Path

    from flowbed.embedding import Embedder
    from flowbed.testing.simulators.faults import Kind
    from flowbed.testing.simulators.wire import Api

KEY = "sk-of-the-contract-7f3a9c"
# Long enough to be recognised in a message.
PRIVATE = "a text of which no word may be repeated to anybody, for it is private"


class ProviderContract(EmbedderContract):
    """Tests of an embedder that calls a provider, against a simulator that fails in every way providers do."""

    model: str  # as vendor:name
    window: int  # tokens that a text may have
    takes_empty = False
    names_long_texts = True  # whether it says which text of a call was too long

    @abstractmethod
    def api(self) -> Api:
        """Create the simulated API; it accepts KEY."""

    @abstractmethod
    def options(self, url: str) -> Mapping[str, str]:
        """Return the options that make the embedder call `url`; the contract adds its key."""

    @pytest_asyncio.fixture(autouse=True)
    async def served(self) -> AsyncIterator[None]:
        """Serve the simulator during a test."""
        self.simulator = Simulator(self.api())
        async with running(self.simulator) as url:
            self.url = url
            yield

    def open_embedder(self, folder: Path) -> Embedder:
        """Open the embedder, with the contract's key."""
        return self.opened(folder)

    def opened(self, folder: Path, **changes: str) -> Embedder:
        """Open the embedder with other options."""
        options = {"api_key": KEY, **self.options(self.url), **changes}
        return open_embedder(self.model, cache=folder, options=options)

    async def failure(self, embedder: Embedder, fault: Fault, *texts: str) -> Error:
        """Order a fault, and return the resulting error, which must reveal no secret."""
        self.simulator.order(fault)
        with pytest.raises(Error) as raised:
            await embedder.embed(texts or ["one", PRIVATE, "three"], purpose="document")
        message = f"{raised.value} {raised.value!r}"
        assert KEY not in message
        assert PRIVATE[:20] not in message
        return raised.value

    @pytest.mark.parametrize("header", ["seconds", "milliseconds", "date"])
    async def test_rate_limited_response_tells_the_wait(self, embedder: Embedder, header: str) -> None:
        """A 429 says when to retry, in whichever header."""
        error = await self.failure(
            embedder,
            Fault(kind="rate_limited", retry_after=3.0, retry_header=header),  # type: ignore[arg-type]
        )
        assert isinstance(error, Transient)
        assert error.retry_after is not None
        assert 1 <= error.retry_after <= 5

    async def test_rate_limited_response_without_a_wait_is_transient(self, embedder: Embedder) -> None:
        """It is worth another attempt, and the next one succeeds."""
        error = await self.failure(embedder, Fault(kind="rate_limited", calls=(1,)))
        assert isinstance(error, Transient)
        assert (await embedder.embed(["one"], purpose="document")).vectors.shape[0] == 1

    @pytest.mark.parametrize("status", [500, 502, 503, 504])
    @pytest.mark.parametrize("kind", ["error", "gateway"])
    async def test_server_error_is_transient(self, embedder: Embedder, kind: Kind, status: int) -> None:
        """From the vendor itself, or from a gateway with a page of HTML."""
        assert isinstance(await self.failure(embedder, Fault(kind=kind, status=status)), Transient)

    @pytest.mark.parametrize("kind", ["cut", "truncated", "garbled", "missing", "not_finite"])
    async def test_untrustworthy_response_is_transient(self, embedder: Embedder, kind: Kind) -> None:
        """Nothing is used of a response that is incomplete, not JSON, or has missing or infinite numbers."""
        assert isinstance(await self.failure(embedder, Fault(kind=kind)), Transient)

    async def test_other_dimensions_is_misconfigured(self, embedder: Embedder) -> None:
        """Vectors of another length are another model's; the message names their length."""
        error = await self.failure(embedder, Fault(kind="wrong_dimension"))
        assert isinstance(error, Misconfigured)
        assert str(embedder.space.dimensions - 1) in str(error)

    async def test_exhausted_quota_is_misconfigured(self, embedder: Embedder) -> None:
        """Waiting does not help an exhausted account: a person has to look at it."""
        assert isinstance(await self.failure(embedder, Fault(kind="quota")), Misconfigured)

    @pytest.mark.parametrize("status", [401, 403, 404])
    async def test_refused_key_or_model_is_misconfigured(self, embedder: Embedder, status: int) -> None:
        """The message names the setting to change."""
        error = await self.failure(embedder, Fault(kind="error", status=status))
        assert isinstance(error, Misconfigured)
        assert ("base_url" if status == 404 else "key") in str(error).lower()

    async def test_unknown_key_is_misconfigured_and_not_repeated(self, tmp_path: Path) -> None:
        """The message does not contain the key."""
        embedder = self.opened(tmp_path, api_key="sk-wrong-1234567890")
        try:
            with pytest.raises(Misconfigured) as raised:
                await embedder.embed(["one"], purpose="document")
        finally:
            await _close(embedder)
        assert "sk-wrong-1234567890" not in str(raised.value)

    async def test_slow_response_is_transient(self, tmp_path: Path) -> None:
        """A request without a response in time may be repeated."""
        embedder = self.opened(tmp_path, timeout="0.2")
        try:
            error = await self.failure(embedder, Fault(kind="slow", delay=30.0))
        finally:
            await _close(embedder)
        assert isinstance(error, Transient)

    async def test_unreachable_address_is_transient(self, tmp_path: Path) -> None:
        """The server may be back later."""
        async with running(Simulator(self.api())) as url:
            gone = url
        self.url, here = gone, self.url
        embedder = self.opened(tmp_path)
        self.url = here
        try:
            with pytest.raises(Transient):
                await embedder.embed(["one"], purpose="document")
        finally:
            await _close(embedder)

    async def test_embed_more_texts_than_a_request_holds_sends_several(self, embedder: Embedder) -> None:
        """The call is answered whole, in the order of its texts."""
        texts = [f"text {number}" for number in range(embedder.items + 3)]
        found = (await embedder.embed(texts, purpose="document")).vectors
        assert found.shape == (len(texts), embedder.space.dimensions)
        for place in (0, embedder.items - 1, embedder.items, len(texts) - 1):
            alone = (await embedder.embed([texts[place]], purpose="document")).vectors[0]
            np.testing.assert_allclose(found[place], alone, atol=AGREE)

    async def test_embed_more_tokens_than_a_request_holds_sends_several(self, tmp_path: Path) -> None:
        """Texts that are few but too large together are sent in several requests."""
        embedder = self.opened(tmp_path, tokens="40")
        texts = [f"{number} " + "word " * 15 for number in range(5)]
        try:
            found = await embedder.embed(texts, purpose="document")
        finally:
            await _close(embedder)
        assert len(found.vectors) == len(texts)
        assert len(self.simulator.account.exchanges) >= 3

    async def test_embed_one_failed_request_fails_the_call(self, embedder: Embedder) -> None:
        """A call of several requests succeeds as a whole or not at all."""
        texts = [f"text {number}" for number in range(embedder.items + 3)]
        error = await self.failure(embedder, Fault(kind="error", calls=(2,)), *texts)
        assert isinstance(error, Transient)

    async def test_embed_too_long_text_is_rejected(self, embedder: Embedder) -> None:
        """It is never truncated silently: the call is refused, and names the text if it is known."""
        texts = ["fine", "word " * (self.window + 50), "good"]
        with pytest.raises(Rejected) as raised:
            await embedder.embed(texts, purpose="document")
        assert raised.value.inputs == ((1,) if self.names_long_texts else ())
        with pytest.raises(Rejected) as raised:
            await embedder.embed([texts[1]], purpose="document")
        assert raised.value.inputs == (0,)

    async def test_embed_several_requests_sums_their_tokens(self, embedder: Embedder) -> None:
        """The tokens of a call are those of all its requests."""
        texts = [f"text {number}" for number in range(embedder.items + 3)]
        whole = (await embedder.embed(texts, purpose="document")).tokens
        parts = [
            (await embedder.embed(some, purpose="document")).tokens
            for some in (texts[: embedder.items], texts[embedder.items :])
        ]
        assert whole == sum(parts) > 0

    async def test_embed_closed_embedder_is_transient(self, embedder: Embedder) -> None:
        """A closed embedder says so instead of connecting again."""
        await _close(embedder)
        with pytest.raises(Transient, match="closed"):
            await embedder.embed(["one"], purpose="document")


class IndexedProviderContract(ProviderContract):
    """Tests of an embedder whose provider says with an index which text a vector belongs to."""

    async def test_embed_response_in_another_order_keeps_the_texts_vectors(self, embedder: Embedder) -> None:
        """Vectors with an index find their texts in any order."""
        right = (await embedder.embed(["one", "two", "three"], purpose="document")).vectors
        self.simulator.order(Fault(kind="wrong_order"))
        turned = (await embedder.embed(["one", "two", "three"], purpose="document")).vectors
        assert self.simulator.account.exchanges[-1].faults == ["wrong_order"]
        np.testing.assert_allclose(turned, right, atol=AGREE)

    async def test_embed_doubled_index_is_transient(self, embedder: Embedder) -> None:
        """If two vectors claim one text, none is used."""
        error = await self.failure(embedder, Fault(kind="wrong_index"))
        assert isinstance(error, Transient)
        assert "index" in str(error)


async def _close(embedder: Embedder) -> None:
    if isinstance(embedder, Closes):
        await embedder.aclose()
