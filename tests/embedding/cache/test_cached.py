"""The cache in front of an embedder: nothing is sent twice, and its failures do no harm."""

from __future__ import annotations

import asyncio
import hashlib
import sqlite3
from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowbed import telemetry
from flowbed.embedding.cache.cached import Cached
from flowbed.embedding.cache.disk import VectorFile
from flowbed.embedding.cache.memory import VectorMemory
from flowbed.embedding.dimensions import resized_space
from flowbed.embedding.local.priority import background
from flowbed.errors import Error, Misconfigured, OutOfSpace, Rejected, Transient
from flowbed.records import Embedded, Space, vector_key

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path
    from typing import Any

    from numpy.typing import NDArray

    from flowbed.embedding.cache.tiers import VectorTier
    from flowbed.records import Purpose

DIMENSIONS = 8
SPACE = Space(model="seeded", dimensions=DIMENSIONS)


def vector_of(text: str, purpose: Purpose = "document") -> NDArray[np.float32]:
    seed = int.from_bytes(hashlib.sha256(f"{purpose} {text}".encode()).digest()[:8], "big")
    vector = np.random.default_rng(seed).normal(size=DIMENSIONS)
    return np.asarray(vector / np.linalg.norm(vector), dtype=np.float32)


class Provider:
    """An embedder whose vectors depend on the text; it records what it is sent, and waits at a gate."""

    space = SPACE
    items = 100
    tokens = 1_000
    price = 0.5

    def __init__(self) -> None:
        self.sent: list[list[str]] = []
        self.gate = asyncio.Event()
        self.gate.set()
        self.errors: list[Error] = []

    async def embed(self, texts: Sequence[str], *, purpose: Purpose) -> Embedded:
        self.sent.append(list(texts))
        await self.gate.wait()
        if self.errors:
            raise self.errors.pop(0)
        bad = [place for place, text in enumerate(texts) if text.startswith("bad")]
        if bad:
            raise Rejected("texts are bad", inputs=bad)
        return Embedded(
            vectors=np.array([vector_of(text, purpose) for text in texts]),
            tokens=sum(self.count(text) for text in texts),
            truncated=tuple(place for place, text in enumerate(texts) if text.startswith("long")),
        )

    def count(self, text: str) -> int:
        return len(text.split())


class Tier(dict[bytes, bytes]):
    """A tier that records its calls, and fails on request."""

    def __init__(self) -> None:
        super().__init__()
        self.asked: list[list[bytes]] = []
        self.error: Exception | None = None

    async def get_many(self, keys: Sequence[bytes]) -> dict[bytes, bytes]:
        self.asked.append(list(keys))
        await asyncio.sleep(0)
        if self.error:
            raise self.error
        return {key: self[key] for key in keys if key in self}

    async def put_many(self, vectors: Mapping[bytes, bytes]) -> None:
        await asyncio.sleep(0)
        if self.error:
            raise self.error
        self.update(vectors)


@pytest.fixture
def provider() -> Provider:
    return Provider()


def expected(texts: Sequence[str]) -> NDArray[np.float32]:
    return np.array([vector_of(text) for text in texts])


@pytest.mark.parametrize(("price", "answered"), [(0.0, True), (0.5, False)])
async def test_cache_interactive_call_does_not_wait_for_background_work(
    provider: Provider, price: float, answered: bool
) -> None:
    """Background work may take long: a request for the same text is sent separately, unless that costs money."""
    provider.price = price
    cached = Cached(provider, [Tier()])
    provider.gate.clear()
    with background():
        aside = asyncio.create_task(cached.embed(["a", "b"], purpose="document"))
    await asyncio.sleep(0.01)
    waited_for = asyncio.create_task(cached.embed(["a"], purpose="document"))
    await asyncio.sleep(0.01)
    assert provider.sent == [["a", "b"], ["a"]][: 1 + answered]
    with background():  # which may wait for anything in flight
        again = asyncio.create_task(cached.embed(["a", "b"], purpose="document"))
    await asyncio.sleep(0.01)
    provider.gate.set()
    for call, texts in ((aside, ["a", "b"]), (waited_for, ["a"]), (again, ["a", "b"])):
        np.testing.assert_array_equal((await call).vectors, expected(texts))
    assert len(provider.sent) == 1 + answered


async def test_cache_single_text_is_not_counted(provider: Provider) -> None:
    """All billed tokens of a request of one text are that text's."""

    class Billing(Provider):
        def count(self, text: str) -> int:
            return 7 if not self.sent else pytest.fail("it was counted")

        async def embed(self, texts: Sequence[str], *, purpose: Purpose) -> Embedded:
            answer = await provider.embed(texts, purpose=purpose)
            self.sent.append(list(texts))
            return answer

    cached = Cached(Billing(), [VectorMemory(limit=2**20, ttl=60)], counts=True)
    assert (await cached.embed(["a b c"], purpose="document")).counts == (3,)
    assert (await cached.embed(["a b c", "a b c"], purpose="document")).counts == (3, 3)


async def test_cache_repeated_text_is_sent_once(provider: Provider) -> None:
    """Duplicates and texts of earlier calls are not sent; order is kept, and only sent texts are billed."""
    cached = Cached(provider, [Tier()])
    first = await cached.embed(["b b", "a", "b b"], purpose="document")
    second = await cached.embed(["a", "c c c", "b b", "a"], purpose="document")
    assert provider.sent == [["b b", "a"], ["c c c"]]
    assert (first.vectors == expected(["b b", "a", "b b"])).all()
    assert (second.vectors == expected(["a", "c c c", "b b", "a"])).all()
    assert (first.tokens, second.tokens) == (3, 3)
    assert (cached.space, cached.items, cached.price, cached.count("x y")) == (SPACE, 100, 0.5, 2)


async def test_cache_query_and_document_have_two_vectors(provider: Provider) -> None:
    cached = Cached(provider, [Tier()])
    document = await cached.embed(["a"], purpose="document")
    query = await cached.embed(["a"], purpose="query")
    assert (document.vectors != query.vectors).any()
    assert len(provider.sent) == 2


async def test_cache_no_texts_sends_nothing(provider: Provider) -> None:
    tier = Tier()
    embedded = await Cached(provider, [tier]).embed([], purpose="document")
    assert embedded.vectors.shape == (0, DIMENSIONS)
    assert not provider.sent
    assert not tier.asked


@given(
    calls=st.lists(st.lists(st.sampled_from("abcdefgh"), max_size=12), max_size=6),
    held=st.sets(st.sampled_from("abcd")),
)
def test_cache_concurrent_calls_send_each_text_once(calls: list[list[str]], held: set[str]) -> None:
    """However calls overlap, each distinct text is sent at most once, and each call gets its vectors."""

    async def check() -> None:
        provider, near, far = Provider(), Tier(), Tier()
        far.update({vector_key(SPACE, "document", text): vector_of(text).tobytes() for text in held})
        cached = Cached(provider, [near, far])
        answers = await asyncio.gather(*(cached.embed(call, purpose="document") for call in calls))
        sent = [text for texts in provider.sent for text in texts]
        assert sorted(sent) == sorted({text for call in calls for text in call} - held)
        for call, answer in zip(calls, answers, strict=True):
            assert (answer.vectors == expected(call).reshape(-1, DIMENSIONS)).all()
        assert sum(answer.tokens for answer in answers) == len(sent)

    asyncio.run(check())


async def test_cache_text_in_flight_is_awaited(provider: Provider) -> None:
    """A text that another call has sent is awaited; new texts are sent at once."""
    cached = Cached(provider, [Tier()])
    provider.gate.clear()
    first = asyncio.create_task(cached.embed(["a", "b"], purpose="document"))
    await asyncio.sleep(0.01)
    second = asyncio.create_task(cached.embed(["b", "c"], purpose="document"))
    await asyncio.sleep(0.01)
    assert provider.sent == [["a", "b"], ["c"]]
    provider.gate.set()
    assert (await first).tokens == 2
    answer = await second
    assert (answer.vectors == expected(["b", "c"])).all()
    assert answer.tokens == 1


async def test_cache_waiting_call_sends_the_text_if_the_other_fails(provider: Provider) -> None:
    cached = Cached(provider, [Tier()])
    provider.gate.clear()
    provider.errors.append(Transient("try later"))
    calls = [asyncio.create_task(cached.embed(["a"], purpose="document")) for _ in range(3)]
    await asyncio.sleep(0.01)
    provider.gate.set()
    first, *others = await asyncio.gather(*calls, return_exceptions=True)
    assert isinstance(first, Transient)
    assert [answer.tokens for answer in others if isinstance(answer, Embedded)] == [1, 0]
    assert len(provider.sent) == 2


async def test_cache_waiting_call_sends_the_text_if_the_other_is_cancelled(provider: Provider) -> None:
    cached = Cached(provider, [Tier()])
    provider.gate.clear()
    first = asyncio.create_task(cached.embed(["a"], purpose="document"))
    await asyncio.sleep(0.01)
    second = asyncio.create_task(cached.embed(["a"], purpose="document"))
    await asyncio.sleep(0.01)
    first.cancel()
    provider.gate.set()
    async with asyncio.timeout(5):
        assert ((await second).vectors == expected(["a"])).all()
    assert first.cancelled()


async def test_cache_cancelled_waiter_does_not_affect_others(provider: Provider) -> None:
    cached = Cached(provider, [Tier()])
    provider.gate.clear()
    calls = [asyncio.create_task(cached.embed(["a"], purpose="document")) for _ in range(3)]
    await asyncio.sleep(0.01)
    calls[1].cancel()
    await asyncio.sleep(0.01)
    provider.gate.set()
    async with asyncio.timeout(5):
        assert ((await calls[0]).vectors == expected(["a"])).all()
        assert ((await calls[2]).vectors == expected(["a"])).all()
    assert len(provider.sent) == 1


async def test_cache_partly_failed_call_keeps_the_answered_texts(provider: Provider) -> None:
    """A call of several requests fails whole; repeated, it sends only what was not answered."""
    cached = Cached(provider, [Tier()])
    texts = [f"text {n}" for n in range(450)]
    provider.errors = [Transient("one fails")]
    provider.gate.clear()
    failing = asyncio.create_task(cached.embed(texts, purpose="document"))
    await asyncio.sleep(0.05)
    provider.gate.set()
    with pytest.raises(Transient):
        await failing
    answer = await cached.embed(texts, purpose="document")
    np.testing.assert_array_equal(answer.vectors, expected(texts))
    assert [len(each) for each in provider.sent] == [100, 100, 100, 100, 100, 50]
    assert (answer.tokens, answer.cached) == (300, 300)


async def test_cache_failed_request_starts_no_further_ones(provider: Provider) -> None:
    cached = Cached(provider, [Tier()])
    provider.errors = [Misconfigured("the key is wrong")] * 20
    with pytest.raises(Misconfigured):
        await cached.embed([f"text {n}" for n in range(2_000)], purpose="document")
    assert len(provider.sent) <= 4


async def test_cache_rejected_text_of_several_requests_has_its_position_in_the_call(
    provider: Provider,
) -> None:
    cached = Cached(provider, [Tier()])
    texts = [f"text {n}" for n in range(250)]
    texts[207] = "bad one"
    with pytest.raises(Rejected) as caught:
        await cached.embed(texts, purpose="document")
    assert caught.value.inputs == (207,)


async def test_cache_rejected_text_has_the_callers_positions(provider: Provider) -> None:
    """Duplicates and cached texts count."""
    cached = Cached(provider, [Tier()])
    await cached.embed(["a"], purpose="document")
    with pytest.raises(Rejected, match="texts are bad") as refused:
        await cached.embed(["a", "bad", "b", "a", "bad", "bad too"], purpose="document")
    assert refused.value.inputs == (1, 4, 5)
    assert isinstance(refused.value.__cause__, Rejected)
    with pytest.raises(Rejected) as refused:
        await cached.embed(["a", "\ud800"], purpose="document")
    assert refused.value.inputs == (1,)


async def test_cache_changed_result_changes_no_other(provider: Provider) -> None:
    cached = Cached(provider, [Tier()])
    for _ in range(2):
        answer = await cached.embed(["a", "a"], purpose="document")
        assert answer.vectors.dtype == np.float32
        assert (answer.vectors == expected(["a", "a"])).all()
        answer.vectors[0] = 0
        assert (answer.vectors[1] == vector_of("a")).all()
        found = await cached.lookup(["a"], purpose="document")
        found["a"][:] = 0


async def test_cache_truncated_text_is_marked_on_hits(provider: Provider) -> None:
    cached = Cached(provider, [Tier()])
    sent = await cached.embed(["a", "long", "long"], purpose="document")
    kept = await cached.embed(["long", "b", "a"], purpose="document")
    assert sent.truncated == (1, 2)
    assert kept.truncated == (0,)
    assert provider.sent == [["a", "long"], ["b"]]
    assert (kept.vectors[0] == vector_of("long")).all()


async def test_cache_hit_in_a_far_tier_fills_the_near_one(provider: Provider) -> None:
    near, far = Tier(), Tier()
    far[vector_key(SPACE, "document", "a")] = vector_of("a").tobytes()
    cached = Cached(provider, [near, far])
    for _ in range(2):
        assert ((await cached.embed(["a"], purpose="document")).vectors == expected(["a"])).all()
    assert near == far
    assert len(far.asked) == 1
    assert not provider.sent


@pytest.mark.parametrize(
    "value", [b"", bytes(4 * DIMENSIONS - 4), bytes(4 * DIMENSIONS + 1), bytes(8 * DIMENSIONS)]
)
async def test_cache_value_of_wrong_length_is_replaced(provider: Provider, value: bytes) -> None:
    tier = Tier()
    key = vector_key(SPACE, "document", "a")
    tier[key] = value
    assert (
        (await Cached(provider, [tier]).embed(["a"], purpose="document")).vectors == expected(["a"])
    ).all()
    assert tier[key] == vector_of("a").tobytes()


DAMAGED = {
    "not a number": np.full(DIMENSIONS, np.nan, np.float32).tobytes(),
    "infinite": np.array([np.inf, *[0] * (DIMENSIONS - 1)], np.float32).tobytes(),
    "infinite both ways": np.array([np.inf, -np.inf, *[0] * (DIMENSIONS - 2)], np.float32).tobytes(),
    "one number": np.array([np.nan, 1, *[0] * (DIMENSIONS - 2)], np.float32).tobytes(),
    "zeros": bytes(4 * DIMENSIONS),
    "too long": np.full(DIMENSIONS, 3e38, np.float32).tobytes(),
    "of another length": (2 * vector_of("a")).tobytes(),
    "ones": b"\xff" * (4 * DIMENSIONS),
    "with a count": b"\xff" * (4 * DIMENSIONS) + b"\x01\x00\x00\x00",
}


@pytest.mark.parametrize("value", DAMAGED.values(), ids=DAMAGED)
@pytest.mark.parametrize("place", ["memory", "near", "far"])
async def test_cache_damaged_vector_counts_as_missing(provider: Provider, value: bytes, place: str) -> None:
    """In every tier: it is embedded again, and replaced."""
    tiers: dict[str, VectorTier] = {
        "memory": VectorMemory(limit=2**20, ttl=60),
        "near": Tier(),
        "far": Tier(),
    }
    key = vector_key(SPACE, "document", "a")
    await tiers[place].put_many({key: value})
    cached = Cached(provider, list(tiers.values()))
    assert await cached.known(["a"], purpose="document") == set()
    assert await cached.lookup(["a"], purpose="document") == {}
    assert ((await cached.embed(["a"], purpose="document")).vectors == expected(["a"])).all()
    assert provider.sent == [["a"]]
    for tier in tiers.values():
        assert await tier.get_many([key]) == {key: vector_of("a").tobytes()}


@pytest.mark.parametrize(
    "error", [OutOfSpace("disk is full"), sqlite3.OperationalError("locked"), ConnectionError()]
)
async def test_cache_failing_tier_is_skipped_with_one_warning(
    provider: Provider, error: Exception, caplog: pytest.LogCaptureFixture
) -> None:
    """The other tiers serve, and it is used again later."""
    now = 0.0
    broken, sound = Tier(), Tier()
    broken.error = error
    cached = Cached(provider, [broken, sound], clock=lambda: now)
    for _ in range(3):
        assert ((await cached.embed(["a"], purpose="document")).vectors == expected(["a"])).all()
    assert provider.sent == [["a"]]
    assert len(broken.asked) == 1
    assert caplog.text.count("skipped") == 1
    now, broken.error = 61.0, None
    await cached.embed(["a"], purpose="document")
    assert broken == sound


async def test_cache_lookup_sends_nothing(provider: Provider) -> None:
    cached = Cached(provider, [Tier()])
    await cached.embed(["a", "long"], purpose="document")
    found = await cached.lookup(["long", "b", "a", "a"], purpose="document")
    assert set(found) == {"a", "long"}
    assert (found["long"] == vector_of("long")).all()
    assert await cached.lookup(["b"], purpose="document") == {}
    assert len(provider.sent) == 1


async def test_cache_keep_stores_vectors_from_elsewhere(provider: Provider) -> None:
    """Vectors of a batch job serve later calls; those of another width are refused."""
    cached = Cached(provider, [Tier()])
    await cached.keep(["a", "b"], Embedded(vectors=expected(["a", "b"])), purpose="document")
    assert ((await cached.embed(["b", "a"], purpose="document")).vectors == expected(["b", "a"])).all()
    assert not provider.sent
    with pytest.raises(Misconfigured, match="shape"):
        await cached.keep(["a"], Embedded(vectors=np.zeros((1, 3), dtype=np.float32)), purpose="document")


def test_cache_padded_vectors_are_refused() -> None:
    padded = Provider()
    padded.space = resized_space(padded.space, 9, "pad", matryoshka=False)
    with pytest.raises(Misconfigured, match="zeros"):
        Cached(padded, [])


async def test_cache_infinite_vector_is_not_stored(provider: Provider) -> None:
    tier = Tier()
    cached = Cached(provider, [tier])
    await cached.keep(
        ["a"], Embedded(vectors=np.full((1, DIMENSIONS), np.nan, dtype=np.float32)), purpose="document"
    )
    assert not tier


async def test_cache_request_is_reported_once_in_order(provider: Provider) -> None:
    """Sending, answering and keeping are reported in this order, once per call that sent something."""
    points: list[tuple[str, dict[str, Any]]] = []
    stop: Callable[[], None] = telemetry.listen(lambda point, facts: points.append((point, facts)))
    cached = Cached(provider, [Tier(), Tier()])
    for _ in range(2):
        await cached.embed(["a", "b"], purpose="document")
    stop()
    assert points == [
        (telemetry.REQUEST_SENT, {"texts": 2}),
        (telemetry.REQUEST_ANSWERED, {"texts": 2, "model": "seeded", "tokens": 2, "price": 0.5}),
        (telemetry.VECTORS_KEPT, {"vectors": 2}),
    ]


async def test_cache_memory_and_disk_share_vectors_across_processes(
    provider: Provider, tmp_path: Path
) -> None:
    for round_ in range(2):
        disk = VectorFile(tmp_path / "vectors.db", limit=10**8, clock=lambda: 1e9)
        cached = Cached(provider, [VectorMemory(limit=10**6, ttl=60), disk])
        for _ in range(2):
            answer = await cached.embed(["a", "long"], purpose="document")
            assert (answer.vectors == expected(["a", "long"])).all()
            assert answer.truncated == (1,)
        assert len(provider.sent) == 1, round_
        await disk.close()
