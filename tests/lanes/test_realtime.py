"""The realtime lane, over embedders that refuse, fail and count."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import numpy as np
import pytest
import stamina

from flowbed.embedding.cache.cached import Cached
from flowbed.embedding.cache.memory import VectorMemory
from flowbed.errors import Misconfigured, Rejected, TooMany, Transient
from flowbed.lanes.health import Health
from flowbed.lanes.realtime import embed
from flowbed.lanes.retries import ATTEMPTS, RETRY_AFTER_MAX, wait
from flowbed.records import Embedded, Space, text_hash
from flowbed.testing.embedder import seeded

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray

    from flowbed.lanes.outcome import Outcome
    from flowbed.records import Purpose


class Provider:
    """An embedder of 8 dimensions that remembers each request; texts tell it what to do."""

    space = Space(model="provider", dimensions=8)
    items = 4
    tokens = 1_000
    price = 1.0

    def __init__(self, *, names_inputs: bool = False) -> None:
        self.names_inputs = names_inputs
        self.requests: list[list[str]] = []
        self.now = 0
        self.most = 0

    async def embed(self, texts: Sequence[str], *, purpose: Purpose) -> Embedded:
        assert purpose == "document"
        self.requests.append(list(texts))
        self.now += 1
        self.most = max(self.most, self.now)
        await asyncio.sleep(0.001)
        self.now -= 1
        bad = [at for at, text in enumerate(texts) if "bad" in text]
        if bad:
            raise Rejected("refused", inputs=bad if self.names_inputs else ())
        if any("down" in text for text in texts):
            raise Transient("no answer", retry_after=0.0)
        if any("tomorrow" in text for text in texts):
            raise TooMany("no more today", retry_after=30_000.0)
        if any("key" in text for text in texts):
            raise Misconfigured("the key is wrong; set another")
        vectors = seeded(texts, 8)
        for at, text in enumerate(texts):
            if "nan" in text:
                vectors[at, 0] = np.nan
            if "zero" in text:
                vectors[at] = 0
        cut = tuple(at for at, text in enumerate(texts) if "long" in text)
        return Embedded(vectors=vectors, tokens=len(texts), truncated=cut)

    def count(self, text: str) -> int:
        return len(text) // 4 + 1 + text.count("字")


class Limited(Provider):
    """A provider that takes large requests, and answers only one of its first six."""

    items = 5_000

    async def embed(self, texts: Sequence[str], *, purpose: Purpose) -> Embedded:
        answer = await super().embed(texts, purpose=purpose)
        if 1 < len(self.requests) <= 6:
            raise TooMany("slow down", retry_after=0.0)
        return answer


class Index:
    """A last tier that holds some texts."""

    def __init__(self, *texts: str) -> None:
        self.held = {text_hash(text): seeded([text], 8)[0] for text in texts}

    async def get_many(self, hashes: Sequence[str]) -> dict[str, NDArray[np.float32]]:
        return {each: self.held[each] for each in hashes if each in self.held}


@pytest.fixture(autouse=True)
def quick() -> Iterator[None]:
    """Retry at once."""
    stamina.set_testing(testing=True, attempts=3, cap=True)
    yield
    stamina.set_testing(testing=False)


async def send(
    provider: Provider, texts: Sequence[str], *, index: Index | None = None, concurrency: int = 10
) -> Outcome:
    """Send texts through the lane, with an empty cache."""
    cached = Cached(provider, [VectorMemory(limit=2**20, ttl=60)])
    by_hash = {text_hash(text): text for text in texts}
    return await embed(by_hash, embedder=cached, index=index, concurrency=concurrency)


async def test_embed_each_text_gets_its_own_vector() -> None:
    """However texts are grouped into requests, each gets its own vector and is sent once."""
    provider = Provider()
    texts = [f"text {'x' * (n % 7)} {n}" for n in range(30)]
    outcome = await send(provider, texts)
    for text in texts:
        np.testing.assert_array_equal(outcome.vectors[text_hash(text)], seeded([text], 8)[0])
    assert sorted(text for request in provider.requests for text in request) == sorted(texts)
    assert max(len(request) for request in provider.requests) == provider.items
    assert (outcome.sent, outcome.tokens, outcome.failures) == (30, 30, {})


async def test_embed_request_stays_below_the_token_limit() -> None:
    """A request holds fewer long texts than short ones; one that is too long by itself is sent alone."""
    provider = Provider()
    await send(provider, [f"{n} {'x' * size}" for n in range(3) for size in (1_990, 10_000)])
    sizes = [[len(text) for text in request] for request in provider.requests]
    assert sorted(len(request) for request in sizes) == [1, 1, 1, 1, 2]
    assert all(len(request) == 1 or sum(request) <= provider.tokens * 4 for request in sizes)


async def test_embed_requests_hold_texts_of_similar_length() -> None:
    """Texts are sorted by length before they are grouped, so that little is padding."""
    provider = Provider()
    await send(provider, [f"{'x' * n}" for n in (9, 1, 8, 2, 7, 3, 6, 4)])
    assert sorted(sorted(len(text) for text in request) for request in provider.requests) == [
        [1, 2, 3, 4],
        [6, 7, 8, 9],
    ]


async def test_embed_concurrent_requests_are_limited() -> None:
    """No more requests than allowed are in flight at once."""
    provider = Provider()
    await send(provider, [f"text {n}" for n in range(100)], concurrency=3)
    assert provider.most == 3


@pytest.mark.parametrize("names_inputs", [True, False])
async def test_embed_refused_text_does_not_stop_the_others(names_inputs: bool) -> None:
    """The texts that a provider refuses are found, whether or not it says which they are; all others are embedded."""
    provider = Provider(names_inputs=names_inputs)
    texts = [f"text {n}" if n % 5 else f"bad {n}" for n in range(20)]
    outcome = await send(provider, texts)
    assert set(outcome.failures) == {text_hash(text) for text in texts if "bad" in text}
    assert set(outcome.failures.values()) == {("rejected", "refused")}
    assert set(outcome.vectors) == {text_hash(text) for text in texts if "bad" not in text}
    assert outcome.sent == 16


async def test_embed_outage_fails_only_the_affected_texts() -> None:
    """A failing request is retried a few times; then its texts fail as transient, and the rest is done."""
    provider = Provider()
    outcome = await send(provider, ["aaaaaa down", *(f"{n}" for n in range(4))])
    assert outcome.failures == {text_hash("aaaaaa down"): ("transient", "no answer")}
    assert len(outcome.vectors) == 4
    assert provider.requests.count(["aaaaaa down"]) == 3


async def test_embed_provider_asks_to_wait_for_hours_sends_nothing_more() -> None:
    """A provider that asks to wait for hours is not asked again, and unsent texts keep waiting."""
    provider = Provider()
    texts = [f"tomorrow {n}" for n in range(40)]
    outcome = await send(provider, texts, concurrency=2)
    assert len(provider.requests) == 2
    assert set(outcome.failures.values()) == {("transient", "no more today")}
    assert (len(outcome.failures), len(outcome.unsent)) == (8, 32)
    assert outcome.retry_later == "no more today; it asks to be tried again in 500 minutes"


def test_wait_follows_the_provider_up_to_a_limit() -> None:
    """Waits that the provider asks for are kept, and grow after 0; without one, the waits exceed a minute in all."""
    tries = range(1, ATTEMPTS)
    assert [wait(TooMany("", retry_after=7.0), each) for each in tries] == [7.0, 7.0, 7.0, 7.0, 7.0]
    assert wait(TooMany("", retry_after=RETRY_AFTER_MAX), 1) == RETRY_AFTER_MAX
    assert wait(TooMany("", retry_after=RETRY_AFTER_MAX + 1), 1) is False
    assert [wait(Transient("", retry_after=0.0), each) for each in tries] == [0.0, 0.5, 1.0, 2.0, 4.0]
    assert [wait(Transient(""), each) for each in tries] == [True] * len(tries)
    assert sum(wait(TooMany(""), each) for each in tries) > 60


async def test_embed_other_request_failed_keeps_paid_vectors() -> None:
    """Where a provider counts more tokens than expected, requests are split and fail independently."""
    provider = Provider()
    dense = [f"{n} {'字' * 900}" for n in range(4)]
    outcome = await send(provider, [*dense, f"9 down {'字' * 900}"])
    assert set(outcome.failures) == {text_hash(f"9 down {'字' * 900}")}
    sent = [text for request in provider.requests for text in request if "down" not in text]
    assert sorted(sent) == sorted(dense)
    assert outcome.tokens == 4


async def test_embed_misconfigured_raises() -> None:
    """A setting with which no request can succeed is raised for the user to fix."""
    with pytest.raises(Misconfigured, match="set another"):
        await send(Provider(), ["key", *(f"text {n}" for n in range(20))])


async def test_embed_text_in_the_index_is_not_sent() -> None:
    """A text whose vector the index has is not paid for again."""
    provider = Provider()
    outcome = await send(provider, ["old", "new"], index=Index("old"))
    assert provider.requests == [["new"]]
    assert set(outcome.vectors) == {text_hash("old"), text_hash("new")}
    assert outcome.sent == 1


async def test_embed_truncated_texts_are_reported() -> None:
    """Texts that the model truncated are reported."""
    outcome = await send(Provider(), ["long text", "short"])
    assert outcome.truncated == {text_hash("long text")}


async def test_embed_unusable_vector_fails_its_text() -> None:
    """A vector that is not finite, or has length 0, fails its text alone; the others are kept."""
    outcome = await send(Provider(), ["nan", "zero", "good"])
    assert set(outcome.failures) == {text_hash("nan"), text_hash("zero")}
    assert all("no usable vector" in reason for _, reason in outcome.failures.values())
    assert set(outcome.vectors) == {text_hash("good")}


async def test_embed_rate_limit_sends_what_is_left_in_few_requests() -> None:
    """A provider of few requests a minute would otherwise take an hour for what fits into one of them."""
    provider = Limited()
    texts = {text_hash(f"text {at}"): f"text {at}" for at in range(4_000)}
    embedder = Cached(provider, [VectorMemory(limit=2**26, ttl=60)])
    outcome = await embed(texts, embedder=embedder, index=None, concurrency=4)
    assert outcome.vectors.keys() == texts.keys()
    assert not outcome.failures
    assert len(provider.requests) < 25


async def test_embed_after_a_rate_limit_begins_with_few_requests() -> None:
    """The texts that follow in the same run do not begin with many small requests, of which most are refused."""
    provider, health = Limited(), Health()
    embedder = Cached(provider, [VectorMemory(limit=2**26, ttl=60)])
    for part in ("first", "second"):
        provider.requests[6:] = []  # it counts the first six of all
        texts = {text_hash(f"{part} {at}"): f"{part} {at}" for at in range(4_000)}
        outcome = await embed(texts, embedder=embedder, index=None, concurrency=4, health=health)
        assert outcome.vectors.keys() == texts.keys()
    assert (
        len(provider.requests[6:]) == 13
    )  # as few as its limit of tokens allows; by themselves they take 60
