"""Where a provider fails the next is asked, and vectors of two spaces never meet."""

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
    """A chain is an embedder."""

    def open_embedder(self, folder: Path) -> Embedder:
        """Put one that never answers in front of one that does."""
        return Fallback([Provider(64, error=Transient("down")), Seeded(64)])


@pytest.mark.parametrize("error", [Transient("down"), Unavailable("down"), Misconfigured("no key")])
async def test_the_next_is_asked(error: Error) -> None:
    """A provider that is down or has no key is passed over, the answer names who gave it, and listeners hear of it."""
    heard: list[tuple[object, ...]] = []
    stop = telemetry.listen(lambda point, facts: heard.append((point, *facts.values())))
    chain = Fallback([Provider(error=error), Provider(), Provider()], names=["one", "two", "three"])
    answer = await chain.embed(["a", "b"], purpose="document")
    stop()
    np.testing.assert_array_equal(answer.vectors, seeded(["a", "b"], 8))
    assert answer.provider == "two"
    assert heard == [(telemetry.FALLBACK, "one", str(error))]


async def test_the_first_is_asked_first() -> None:
    """While the first answers, no other is asked, and it is asked again after each failure."""
    first, second = Provider(), Provider()
    chain = Fallback([first, second], names=["one", "two"])
    for error, name in ((None, "one"), (Transient("down"), "two"), (None, "one")):
        first.error = error
        assert (await chain.embed(["a"], purpose="document")).provider == name
    assert (first.calls, second.calls) == (3, 1)


async def test_what_is_refused_is_refused() -> None:
    """A text that will never be accepted is not sent to one provider after the other."""
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
async def test_what_the_last_resort_says(
    errors: list[Error], kind: type[Error], retry_after: float | None
) -> None:
    """When nobody answers, one error says what each said, and when it is soonest worth trying again."""
    chain = Fallback([Provider(error=error) for error in errors])
    with pytest.raises(kind) as raised:
        await chain.embed(["x"], purpose="document")
    assert type(raised.value) is kind
    assert all(str(error) in str(raised.value) for error in errors)
    assert getattr(raised.value, "retry_after", None) == retry_after


def billed(error: Error) -> Error:
    """Mark an error of a call that may be billed though it failed."""
    error.perhaps_billed = True
    return error


class Payer:
    """Has money for sending something again so many times."""

    def __init__(self, money: int) -> None:
        self.money = money

    def allow_resend(self) -> bool:
        self.money -= 1
        return self.money >= 0


@pytest.mark.parametrize(("money", "asked"), [(0, 1), (1, 2), (9, 3)])
async def test_who_pays_is_asked_before_a_text_may_be_billed_twice(money: int, asked: int) -> None:
    """After an answer that got lost the next is asked only where that is paid for, and the error says what is owed."""
    members = [Provider(error=billed(Transient("lost"))) for _ in range(3)]
    payer = Payer(money)
    with billed_to(payer), pytest.raises(Transient) as raised:
        await Fallback(members).embed(["a"], purpose="document")
    assert sum(member.calls for member in members) == asked
    assert raised.value.perhaps_billed
    members[-1].error = Transient("down")
    with billed_to(Payer(9)), pytest.raises(Transient) as raised:
        await Fallback(members).embed(["a"], purpose="document")
    assert not raised.value.perhaps_billed  # of those before it the payer knows
    with pytest.raises(Transient):
        await Fallback(members).embed(["a"], purpose="document")


async def test_another_space_is_refused_at_once() -> None:
    """A model of another space cannot stand in, not even one of the same dimensions."""
    other = Provider()
    other.space = replace(other.space, revision="2")
    with pytest.raises(Misconfigured, match="another vector space"):
        Fallback([Provider(), other])
    with pytest.raises(Misconfigured, match="at least one"):
        Fallback([])


async def test_spaces_are_crossed_only_when_operator_and_request_want_it() -> None:
    """Another space answers only a request that asks for it, and the answer says which space it is of."""
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


async def test_nothing_of_another_space_is_ever_kept() -> None:
    """A cache in front of a chain that may cross spaces never sees a vector of another one."""
    first, other = Provider(8, error=Transient("down")), Provider(8)
    other.space = replace(other.space, revision="2")
    cached = Cached(Fallback([first, other], crossing=True), [VectorMemory(limit=2**20, ttl=60)])
    with pytest.raises(Transient):
        await cached.embed(["a"], purpose="document")
    assert other.calls == 0


async def test_a_call_fits_all_and_no_budget_is_passed() -> None:
    """A call carries no more than the smallest of the space takes, and is planned at the dearest price."""
    members = [Seeded(8, items=9, price=0.1), Seeded(8, items=5, price=0.3), Seeded(8, items=7, price=0.2)]
    chain = Fallback(members)
    assert (chain.items, chain.price) == (5, 0.3)


async def test_a_cancelled_call_asks_nobody_else() -> None:
    """Giving up ends the call, and is no failure to fall back from."""
    second = Provider()
    chain = Fallback([Provider(), second])
    call = asyncio.create_task(chain.embed(["a"], purpose="document"))
    await asyncio.sleep(0)
    call.cancel()
    await asyncio.wait([call])
    assert call.cancelled()
    assert second.calls == 0


async def test_all_are_closed() -> None:
    """Closing a chain closes every provider in it."""
    members = [Provider(), Provider()]
    await Fallback(members).aclose()
    assert all(member.closed for member in members)


async def test_listeners_hear_of_those_that_another_stood_in_for() -> None:
    """Of a provider that fails listeners hear where another is asked in its place, and not where there is none."""
    heard: list[object] = []
    stop = telemetry.listen(lambda _, facts: heard.append(facts["provider"]))
    error = Transient("down")
    for names in (["one"], ["one", "two"], ["one", "two", "three"]):
        with pytest.raises(Transient):
            await Fallback([Provider(error=error) for _ in names], names=names).embed(["a"], purpose="query")
    stop()
    assert heard == ["one", "one", "two"]
