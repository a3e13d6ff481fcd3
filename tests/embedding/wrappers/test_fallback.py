"""If a provider fails the next is called, and vectors of two spaces never mix."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pytest

from flowbed import telemetry
from flowbed.embedding.cache.cached import Cached
from flowbed.embedding.cache.memory import VectorMemory
from flowbed.embedding.wrappers.billing import billed_to
from flowbed.embedding.wrappers.fallback import Fallback
from flowbed.errors import Error, Misconfigured, Rejected, Transient, Unavailable
from flowbed.testing.embedder import Seeded, seeded
from flowbed.testing.embedding import EmbedderContract

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from flowbed.embedding import Embedder
    from flowbed.records import Embedded, Purpose


class Provider(Seeded):
    """A seeded embedder that fails while it has an error."""

    def __init__(self, dimensions: int = 8, *, error: Error | None = None) -> None:
        super().__init__(dimensions)
        self.error = error
        self.calls = 0
        self.closed = False

    async def embed(self, texts: Sequence[str], *, purpose: Purpose) -> Embedded:
        self.calls += 1
        await asyncio.sleep(0)
        if self.error:
            raise self.error
        return await super().embed(texts, purpose=purpose)

    async def aclose(self) -> None:
        self.closed = True


class TestContract(EmbedderContract):
    """A fallback chain is an embedder."""

    def open_embedder(self, folder: Path) -> Embedder:
        """Put one that never answers before one that does."""
        return Fallback([Provider(64, error=Transient("down")), Seeded(64)])


@pytest.mark.parametrize("error", [Transient("down"), Unavailable("down"), Misconfigured("no key")])
async def test_fallback_failed_provider_calls_the_next(error: Error) -> None:
    """The result names who answered, and listeners hear of it."""
    heard: list[tuple[object, ...]] = []
    stop = telemetry.listen(lambda point, facts: heard.append((point, *facts.values())))
    chain = Fallback([Provider(error=error), Provider(), Provider()], names=["one", "two", "three"])
    answer = await chain.embed(["a", "b"], purpose="document")
    stop()
    np.testing.assert_array_equal(answer.vectors, seeded(["a", "b"], 8))
    assert answer.provider == "two"
    assert heard == [(telemetry.FALLBACK, "one", str(error))]


async def test_fallback_prefers_the_first() -> None:
    first, second = Provider(), Provider()
    chain = Fallback([first, second], names=["one", "two"])
    for error, name in ((None, "one"), (Transient("down"), "two"), (None, "one")):
        first.error = error
        assert (await chain.embed(["a"], purpose="document")).provider == name
    assert (first.calls, second.calls) == (3, 1)


async def test_fallback_answers_of_several_providers_cost_what_each_asks() -> None:
    """One call takes two requests, and the first provider answers one of them."""

    class Failing(Provider):
        async def embed(self, texts: Sequence[str], *, purpose: Purpose) -> Embedded:
            if "two" in texts:
                raise Transient("down")
            return await super().embed(texts, purpose=purpose)

    first, second = Failing(), Provider()
    first.price, second.price = 0.5, 0.1
    first.items = second.items = 1
    chain = Cached(Fallback([first, second]), [])
    assert chain.price == 0.5
    answer = await chain.embed(["one", "two"], purpose="document")
    counts = (chain.count("one"), chain.count("two"))
    assert answer.tokens == sum(counts)
    assert counts[0] == counts[1]
    assert answer.cost(chain.price) == pytest.approx(counts[0] * (0.5 + 0.1) / 1e6)
    alone = await chain.embed(["two"], purpose="query")
    assert alone.cost(chain.price) == pytest.approx(alone.tokens * 0.1 / 1e6)


async def test_fallback_rejected_text_calls_no_other() -> None:
    second = Provider()
    with pytest.raises(Rejected):
        await Fallback([Provider(error=Rejected("bad")), second]).embed(["a"], purpose="document")
    assert second.calls == 0


@pytest.mark.parametrize(
    ("errors", "kind", "retry_after"),
    [
        ([Transient("a", retry_after=9), Transient("b", retry_after=4)], Transient, 4),
        ([Transient("a"), Misconfigured("b")], Transient, None),
        (
            [Unavailable("a", retry_after=9), Misconfigured("b"), Unavailable("c", retry_after=5)],
            Unavailable,
            5,
        ),
        ([Unavailable("a", retry_after=9), Transient("b")], Transient, 9),
        ([Misconfigured("a"), Misconfigured("b")], Misconfigured, None),
    ],
)
async def test_fallback_all_failed_raises_one_error(
    errors: list[Error], kind: type[Error], retry_after: float | None
) -> None:
    """It says what each said, and when to retry soonest."""
    chain = Fallback([Provider(error=error) for error in errors])
    with pytest.raises(kind) as raised:
        await chain.embed(["x"], purpose="document")
    assert type(raised.value) is kind
    assert all(str(error) in str(raised.value) for error in errors)
    assert getattr(raised.value, "retry_after", None) == retry_after


def billed(error: Error) -> Error:
    """Mark an error of a call that may be billed nevertheless."""
    error.perhaps_billed = True
    return error


class Payer:
    """Has money for a number of resends."""

    def __init__(self, money: int) -> None:
        self.money = money

    def allow_resend(self) -> bool:
        self.money -= 1
        return self.money >= 0


@pytest.mark.parametrize(("money", "asked"), [(0, 1), (1, 2), (9, 3)])
async def test_fallback_possibly_billed_text_asks_the_payer(money: int, asked: int) -> None:
    """After a lost response the next is called only if the payer allows it; the error says what may be billed."""
    members = [Provider(error=billed(Transient("lost"))) for _ in range(3)]
    payer = Payer(money)
    with billed_to(payer), pytest.raises(Transient) as raised:
        await Fallback(members).embed(["a"], purpose="document")
    assert sum(member.calls for member in members) == asked
    assert raised.value.perhaps_billed
    members[-1].error = Transient("down")
    with billed_to(Payer(9)), pytest.raises(Transient) as raised:
        await Fallback(members).embed(["a"], purpose="document")
    assert not raised.value.perhaps_billed  # the payer knows of the earlier ones
    with pytest.raises(Transient):
        await Fallback(members).embed(["a"], purpose="document")


async def test_fallback_other_space_is_misconfigured() -> None:
    """Even one of the same dimensions."""
    other = Provider()
    other.space = replace(other.space, revision="2")
    with pytest.raises(Misconfigured, match="another vector space"):
        Fallback([Provider(), other])
    with pytest.raises(Misconfigured, match="at least one"):
        Fallback([])


async def test_fallback_crosses_spaces_only_if_operator_and_request_allow() -> None:
    """The result says which space it is of."""
    first, other = Provider(8, error=Transient("down")), Provider(16)
    chain = Fallback([first, other], names=["one", "other"], crossing=True)
    assert chain.space == first.space
    with pytest.raises(Transient):
        await chain.embed(["a"], purpose="document")
    with pytest.raises(Transient):
        await chain.embed_from(["a"], purpose="document")
    answer, who = await chain.embed_from(["a"], purpose="document", crossing=True)
    assert who is other
    assert answer.provider == "other"
    assert answer.vectors.shape == (1, 16)
    with pytest.raises(Transient):
        await Fallback([first]).embed_from(["a"], purpose="document", crossing=True)


async def test_fallback_crossing_vectors_are_never_cached() -> None:
    first, other = Provider(8, error=Transient("down")), Provider(8)
    other.space = replace(other.space, revision="2")
    cached = Cached(Fallback([first, other], crossing=True), [VectorMemory(limit=2**20, ttl=60)])
    with pytest.raises(Transient):
        await cached.embed(["a"], purpose="document")
    assert other.calls == 0


async def test_fallback_has_the_smallest_limits_and_the_highest_price() -> None:
    members = [Seeded(8, items=9, price=0.1), Seeded(8, items=5, price=0.3), Seeded(8, items=7, price=0.2)]
    chain = Fallback(members)
    assert (chain.items, chain.price) == (5, 0.3)


async def test_fallback_cancelled_call_calls_no_other() -> None:
    second = Provider()
    chain = Fallback([Provider(), second])
    call = asyncio.create_task(chain.embed(["a"], purpose="document"))
    await asyncio.sleep(0)
    call.cancel()
    await asyncio.wait([call])
    assert call.cancelled()
    assert second.calls == 0


async def test_fallback_aclose_closes_every_provider() -> None:
    members = [Provider(), Provider()]
    await Fallback(members).aclose()
    assert all(member.closed for member in members)


async def test_fallback_reports_only_replaced_providers() -> None:
    heard: list[object] = []
    stop = telemetry.listen(lambda _, facts: heard.append(facts["provider"]))
    error = Transient("down")
    for names in (["one"], ["one", "two"], ["one", "two", "three"]):
        with pytest.raises(Transient):
            await Fallback([Provider(error=error) for _ in names], names=names).embed(["a"], purpose="query")
    stop()
    assert heard == ["one", "one", "two"]
