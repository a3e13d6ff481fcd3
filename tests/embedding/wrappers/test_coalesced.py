"""Joining calls while the embedder is busy: each gets its own vectors, and none fails because of another's texts."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.support.virtual import run_virtual

from flowbed import telemetry
from flowbed.embedding.cache.cached import Cached
from flowbed.embedding.cache.memory import VectorMemory
from flowbed.embedding.local.priority import BACKGROUND, background
from flowbed.embedding.wrappers.coalesced import INTERACTIVE, Coalesced
from flowbed.errors import Misconfigured, Rejected, Transient, Unavailable
from flowbed.records import Embedded, Space
from flowbed.testing.embedder import Seeded, seeded
from flowbed.testing.embedding import EmbedderContract

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from flowbed.embedding import Embedder
    from flowbed.records import Purpose

DIMENSIONS = 4
LARGE = INTERACTIVE + 4


def vectors_of(texts: Sequence[str], purpose: Purpose = "document") -> NDArray[np.float32]:
    return seeded([f"{purpose} {text}" for text in texts], DIMENSIONS)


class Model:
    """A model that takes a second per call, refuses bad texts, and crashes on deadly ones."""

    space = Space(model="m", dimensions=DIMENSIONS)
    items, tokens, price = 16, 100, 0.0

    def __init__(self, *, names_inputs: bool = True, error: Exception | None = None) -> None:
        self.names_inputs = names_inputs
        self.error = error
        self.sent: list[list[str]] = []
        self.waited_for: list[bool] = []
        self.under_way = 0
        self.most_under_way = 0
        self.cancelled = 0

    async def embed(self, texts: Sequence[str], *, purpose: Purpose) -> Embedded:
        assert len(texts) <= self.items
        self.sent.append(list(texts))
        self.waited_for.append(not BACKGROUND.get())
        self.under_way += 1
        self.most_under_way = max(self.most_under_way, self.under_way)
        try:
            await asyncio.sleep(1.0)
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        finally:
            self.under_way -= 1
        if self.error:
            raise self.error
        if any(text.startswith("deadly") for text in texts):
            raise Transient("the worker died")
        if any(text.startswith("odd") for text in texts):
            raise ZeroDivisionError
        bad = [place for place, text in enumerate(texts) if text.startswith("bad")]
        if bad:
            raise Rejected("bad", inputs=bad if self.names_inputs else (), code="too_long")
        return Embedded(
            vectors=vectors_of(texts, purpose),
            tokens=sum(map(self.count, texts)),
            truncated=tuple(place for place, text in enumerate(texts) if text.startswith("long")),
        )

    def count(self, text: str) -> int:
        return len(text.split())


class TestContract(EmbedderContract):
    """A coalesced embedder is an embedder."""

    def open_embedder(self, folder: Path) -> Embedder:
        """Coalesce calls to the seeded one."""
        return Coalesced(Seeded(64))


class TestPartByPart(EmbedderContract):
    """An embedder whose calls are sent in parts is an embedder."""

    def open_embedder(self, folder: Path) -> Embedder:
        """Join at most two texts."""
        return Coalesced(Seeded(64), items=2)


@dataclass(frozen=True)
class Calling:
    """One call: when it starts, its texts, and when its caller gives up."""

    at: float
    texts: tuple[str, ...]
    purpose: Purpose = "document"
    gives_up: float | None = None
    waited_for: bool = True


WORDS = st.sampled_from(["a", "b b", "c c c", "long d", "a" * 200, "bad", "deadly", "odd"])


@settings(max_examples=200, deadline=None)
@given(
    calls=st.lists(
        st.builds(
            Calling,
            at=st.sampled_from([0.0, 0.0, 0.5, 1.0, 2.5]),
            texts=st.lists(WORDS, max_size=20).map(tuple) | st.lists(st.just("a"), max_size=5).map(tuple),
            purpose=st.sampled_from(["document", "query"]),
            gives_up=st.sampled_from([None, None, 0.0, 0.7, 2.0]),
            waited_for=st.booleans(),
        ),
        max_size=12,
    ),
    names_inputs=st.booleans(),
    at_once=st.integers(1, 3),
    separate_kinds=st.booleans(),
)
def test_coalesced_every_call_has_its_own_outcome(
    calls: list[Calling], names_inputs: bool, at_once: int, separate_kinds: bool
) -> None:
    """However calls overlap and are cancelled, each gets its own vectors or is refused for its own texts."""
    model = Model(names_inputs=names_inputs)
    outcomes: list[tuple[Calling, Embedded | Exception]] = []

    async def caller(coalesced: Coalesced, calling: Calling) -> None:
        await asyncio.sleep(calling.at)
        BACKGROUND.set(not calling.waited_for)  # in this task's context only
        try:
            async with asyncio.timeout(calling.gives_up):
                answer = await coalesced.embed(calling.texts, purpose=calling.purpose)
        except TimeoutError:
            return
        except Exception as error:  # noqa: BLE001 - whatever it is, is looked at
            outcomes.append((calling, error))
        else:
            outcomes.append((calling, answer))

    async def main() -> None:
        coalesced = Coalesced(model, at_once=at_once, separate_kinds=separate_kinds)
        async with asyncio.TaskGroup() as group:
            for calling in calls:
                group.create_task(caller(coalesced, calling))
        await asyncio.sleep(0)
        assert coalesced.waiting == 0
        assert not coalesced._running

    run_virtual(main())
    assert model.most_under_way <= at_once * (3 if separate_kinds else 1)
    deadly = sum(any(text.startswith(("deadly", "odd")) for text in calling.texts) for calling in calls)
    for calling, outcome in outcomes:
        check(calling, outcome, deadly=deadly)


def check(calling: Calling, outcome: Embedded | Exception, *, deadly: int) -> None:
    """Assert that an outcome follows from the call's own texts; only if several are deadly may others suffer."""
    faults = {text.split()[0] for text in calling.texts} & {"bad", "deadly", "odd"}
    if isinstance(outcome, Embedded):
        assert not faults
        np.testing.assert_array_equal(outcome.vectors, vectors_of(calling.texts, calling.purpose))
        assert outcome.tokens == sum(len(text.split()) for text in calling.texts)
        assert outcome.truncated == tuple(
            place for place, text in enumerate(calling.texts) if text.startswith("long")
        )
    elif isinstance(outcome, Rejected):
        assert "bad" in faults
        assert outcome.code == "too_long"
        assert all(calling.texts[place] == "bad" for place in outcome.inputs)
    else:
        assert isinstance(outcome, Transient | ZeroDivisionError)
        assert faults & {"deadly", "odd"} or deadly > 1


def test_coalesced_calls_during_another_are_joined() -> None:
    """The first call is sent at once, and no call waits for a timer."""

    async def main() -> None:
        model = Model()
        coalesced = Coalesced(model)
        told: list[dict[str, Any]] = []
        stop = telemetry.listen(
            lambda point, facts: told.append(facts) if point == telemetry.COALESCED else None
        )
        answers = await asyncio.gather(*(coalesced.embed([word], purpose="document") for word in "abcde"))
        stop()
        assert model.sent == [["a"], ["b", "c", "d", "e"]]
        assert asyncio.get_running_loop().time() == 2.0
        assert told == [{"texts": 1, "calls": 1}, {"texts": 4, "calls": 4}]
        for word, answer in zip("abcde", answers, strict=True):
            np.testing.assert_array_equal(answer.vectors, vectors_of([word]))

    run_virtual(main())


def test_coalesced_small_calls_overtake_large_ones() -> None:

    async def main() -> None:
        coalesced = Coalesced(Model())
        large = asyncio.create_task(coalesced.embed(["word"] * 160, purpose="document"))
        await asyncio.sleep(2.5)
        await coalesced.embed(["a"], purpose="query")
        assert asyncio.get_running_loop().time() == 4.0
        np.testing.assert_array_equal((await large).vectors, vectors_of(["word"] * 160))
        assert asyncio.get_running_loop().time() == 11.0

    run_virtual(main())


def test_coalesced_separate_kinds_small_call_does_not_wait_for_a_large_one() -> None:

    async def main() -> None:
        model = Model()
        coalesced = Coalesced(model, separate_kinds=True)
        large = [asyncio.create_task(coalesced.embed(["word"] * LARGE, purpose="document")) for _ in range(2)]
        await asyncio.sleep(0.5)
        small = [asyncio.create_task(coalesced.embed([word], purpose="document")) for word in "abc"]
        await small[0]
        assert asyncio.get_running_loop().time() == 1.5
        await asyncio.gather(*small)
        assert asyncio.get_running_loop().time() == 2.5
        await asyncio.gather(*large)
        assert model.sent == [["word"] * LARGE, ["a"], ["word"] * LARGE, ["b", "c"]]
        assert model.most_under_way == 2

    run_virtual(main())


def test_coalesced_background_work_goes_last() -> None:
    """It is marked for the embedder, and runs beside other calls if it can."""

    async def main(*, separate_kinds: bool) -> Model:
        model = Model()
        coalesced = Coalesced(model, separate_kinds=separate_kinds)
        waited_for = [["word"], ["first"] * LARGE, ["x"]]
        calls = []
        for place, texts in enumerate(waited_for):
            if place == 1:
                with background():
                    calls.append(asyncio.create_task(coalesced.embed(["last"], purpose="document")))
            calls.append(asyncio.create_task(coalesced.embed(texts, purpose="document")))
        await asyncio.gather(*calls)
        return model

    model = run_virtual(main(separate_kinds=False))
    assert model.sent == [["word"], ["x", *["first"] * LARGE, "last"]]
    assert model.waited_for == [True, True]  # by some
    model = run_virtual(main(separate_kinds=True))
    assert model.sent == [["word"], ["last"], ["first"] * LARGE, ["x"]]
    assert model.waited_for == [True, False, True, True]


def test_coalesced_large_call_is_not_starved_by_small_ones() -> None:

    async def main() -> None:
        coalesced = Coalesced(Model())

        async def stream(purpose: Purpose) -> None:
            while True:
                await coalesced.embed(["a"] * INTERACTIVE, purpose=purpose)

        streams = [asyncio.create_task(stream(purpose)) for purpose in ("document", "query") * 2]
        try:
            async with asyncio.timeout(60):
                await asyncio.gather(
                    coalesced.embed(["b"] * 50, purpose="document"),
                    coalesced.embed(["b"] * 50, purpose="query"),
                )
        finally:
            for each in streams:
                each.cancel()
            await asyncio.wait(streams)

    run_virtual(main())


@pytest.mark.parametrize("poison", ["bad", "deadly", "odd"])
@pytest.mark.parametrize("names_inputs", [True, False])
def test_coalesced_poison_text_fails_only_its_own_call(poison: str, names_inputs: bool) -> None:

    async def main() -> None:
        coalesced = Coalesced(Model(names_inputs=names_inputs))
        busy = asyncio.create_task(coalesced.embed(["busy"], purpose="document"))
        await asyncio.sleep(0)
        calls = [["a"], ["b", poison], ["c"], ["d", "e"]]
        outcomes = await asyncio.gather(
            *(coalesced.embed(texts, purpose="document") for texts in calls), return_exceptions=True
        )
        assert isinstance(outcomes[1], Exception)
        if isinstance(outcomes[1], Rejected):
            assert outcomes[1].inputs == ((1,) if names_inputs else ())
        for texts, outcome in zip(calls, outcomes, strict=True):
            if poison not in texts:
                assert isinstance(outcome, Embedded)
                np.testing.assert_array_equal(outcome.vectors, vectors_of(texts))
        await busy

    run_virtual(main())


@pytest.mark.parametrize(
    ("error", "requests"),
    [
        (Transient("down", retry_after=3.0), 4),
        (Unavailable("down", retry_after=3.0), 2),
        (Misconfigured("no"), 2),
    ],
)
def test_coalesced_down_embedder_is_not_tried_by_every_call(error: Exception, requests: int) -> None:
    """After a few tries all fail, each with its own exception."""

    async def main() -> None:
        model = Model(error=error)
        coalesced = Coalesced(model)
        outcomes = await asyncio.gather(
            *(coalesced.embed([str(number)], purpose="document") for number in range(15)),
            return_exceptions=True,
        )
        assert {type(outcome) for outcome in outcomes} == {type(error)}
        assert {getattr(outcome, "retry_after", None) for outcome in outcomes} == {
            getattr(error, "retry_after", None)
        }
        assert len({id(outcome) for outcome in outcomes}) > len(outcomes) - requests
        assert len(model.sent) == requests

    run_virtual(main())


def test_coalesced_cancelled_texts_are_not_embedded() -> None:
    """A running call without callers is cancelled."""

    async def main() -> None:
        model = Model()
        coalesced = Coalesced(model)
        calls = [asyncio.create_task(coalesced.embed([word], purpose="document")) for word in "abc"]
        await asyncio.sleep(0.5)
        calls[0].cancel()
        calls[1].cancel()
        assert ((await calls[2]).vectors == vectors_of(["c"])).all()
        assert model.sent == [["a"], ["c"]]
        assert model.cancelled == 1
        assert asyncio.get_running_loop().time() == 1.5

    run_virtual(main())


def test_coalesced_retry_omits_cancelled_texts() -> None:

    async def main() -> None:
        model = Model()
        coalesced = Coalesced(model)
        calls = [
            asyncio.create_task(coalesced.embed([word], purpose="document")) for word in ("a", "b", "bad")
        ]
        await asyncio.sleep(1.5)
        calls[1].cancel()
        await asyncio.wait(calls)
        await asyncio.sleep(2)
        assert model.sent == [["a"], ["b", "bad"]]

    run_virtual(main())


def test_coalesced_cancelled_call_leaves_the_others_their_answers() -> None:

    async def main() -> None:
        model = Model()
        coalesced = Coalesced(model)
        calls = [asyncio.create_task(coalesced.embed([word], purpose="document")) for word in "abc"]
        await asyncio.sleep(1.5)
        calls[1].cancel()
        assert ((await calls[2]).vectors == vectors_of(["c"])).all()
        assert (await calls[0]).tokens == 1
        assert model.sent == [["a"], ["b", "c"]]
        assert model.cancelled == 0

    run_virtual(main())


def test_coalesced_behind_a_cache_joins_misses() -> None:

    async def main() -> None:
        model = Model()
        cached = Cached(Coalesced(model), [VectorMemory(limit=2**20, ttl=60)], counts=True)
        wanted = [["a"], ["a", "b b"], ["b b", "c"], ["c"], ["d"]]
        answers = await asyncio.gather(*(cached.embed(texts, purpose="document") for texts in wanted))
        assert model.sent == [["a"], ["b b", "c", "d"]]
        for texts, answer in zip(wanted, answers, strict=True):
            np.testing.assert_array_equal(answer.vectors, vectors_of(texts))
            assert answer.counts == tuple(len(text.split()) for text in texts)

    run_virtual(main())
