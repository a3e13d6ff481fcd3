"""The models that are served."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest
from tests.services.conftest import Provider

from flowbed.embedding.wrappers.breaker import FAILURES
from flowbed.errors import Exhausted, Misconfigured, NotFound, Rejected, Transient, Unavailable
from flowbed.records.serving import Caller, EmbeddingsRequest, TierLimits
from flowbed.services.models import LOCAL_HOLDS, Models
from flowbed.services.popular_texts import LONGEST, TOGETHER, PopularTexts

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import AbstractAsyncContextManager

    from tests.services.conftest import Project

    from flowbed.records import SearchResults
    from flowbed.services.service import Service

    Open = Callable[..., AbstractAsyncContextManager[Service]]


async def test_models_are_described(opened: Open, project: Project) -> None:
    """What is served is listed in the order of the settings, with dimensions, space, aliases and fallback."""
    project.providers["second:small"] = Provider(64, model="small")
    project.providers["other:large"] = Provider(128, model="large")
    settings: dict[str, Any] = {
        "models": ("other:large", "first:small"),
        "aliases": {"text-embedding-3-small": "small"},
        "fallback": {"text-embedding-3-small": ("second:small",)},
    }
    async with opened(**settings) as service:
        large, small = service.models.listed()
        assert (large.id, large.provider, large.dimensions, large.aliases) == ("large", "other", 128, ())
        assert (small.id, small.aliases, small.fallback) == (
            "small",
            ("text-embedding-3-small",),
            ("second:small",),
        )
        assert small.space == Provider(64, model="small").space.fingerprint
        assert small.created == 1_767_225_600


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"models": ("nobody:small",)}, "no provider nobody:small"),
        ({"aliases": {"mine": "large"}}, "alias 'mine' of 'large' cannot be used"),
        ({"aliases": {"small": "first:small"}}, "a new name"),
        ({"fallback": {"large": ("first:small",)}}, "fallback for large, which is not served"),
        ({"fallback": {"small": ("nobody:small",)}}, "no provider nobody:small"),
        ({"models": ("first:small", "second:small")}, "both served as 'small'"),
    ],
)
async def test_settings_that_cannot_be_are_refused(
    opened: Open, project: Project, settings: Any, said: str
) -> None:
    """A model, alias or fallback that leads nowhere, or two ways, is refused before anything is served."""
    project.providers["second:small"] = Provider(64, model="small")
    with pytest.raises(Misconfigured, match=said):
        async with opened(**settings):
            pass


async def test_readiness_embeds_a_real_token(opened: Open, project: Project) -> None:
    """Each model embeds something for a probe, past the cache; probes that come at once share one."""
    async with opened() as service:
        assert [(each.name, each.state) for each in await service.ready()] == [
            ("small", "ok"),
            ("ledger", "ok"),
        ]
        await service.ready()
        assert project.providers["first:small"].sent == ["ready"]


async def test_a_probe_holds_for_seconds(project: Project) -> None:
    """However often readiness is asked for, a model is probed once in some seconds, and then anew."""
    models = await Models.open(project, project.serving, monotonic=project.seconds)
    provider = project.providers["first:small"]
    await asyncio.gather(*(models.ready() for _ in range(10)))
    provider.failure = Transient("gone")
    assert [each.state for each in await models.ready()] == ["ok"]
    project.now.advance(seconds=LOCAL_HOLDS)
    assert [each.state for each in await models.ready()] == ["unhealthy"]
    assert provider.sent == ["ready", "ready"]


async def test_a_probe_holds_no_longer_than_its_breakers_stay_as_they_were(project: Project) -> None:
    """A model whose breaker has opened since it was probed is not called ready, and is again once it is closed."""
    models = await Models.open(project, project.serving, monotonic=project.seconds)
    provider = project.providers["first:small"]
    assert [each.state for each in await models.ready()] == ["ok"]
    provider.failure = Transient("down")
    for number in range(FAILURES):
        with pytest.raises(Transient):
            await models.named("small").embed([f"text {number}"], purpose="query")
    (health,) = await models.ready()
    assert (health.state, health.facts) == ("unhealthy", {"first:small": "open"})
    provider.failure = None
    models.reset("first:small")
    assert [each.state for each in await models.ready()] == ["ok"]


async def test_texts_that_wait_are_counted(project: Project) -> None:
    """Of texts that come while a model works it is told how many wait, by the model's name."""
    provider = project.providers["first:small"]
    go = asyncio.Event()
    embed = provider.embed

    class Slow(Provider):
        async def embed(self, texts: Any, *, purpose: Any) -> Any:
            await go.wait()
            return await embed(texts, purpose=purpose)

    project.providers["first:small"] = Slow(64, model="small")
    models = await Models.open(project, project.serving, monotonic=project.seconds)
    assert models.waiting() == {"first:small": 0}
    calls = [
        asyncio.create_task(models.named("small").embed([f"text {n}"], purpose="query")) for n in range(7)
    ]
    for _ in range(20):  # turns of the loop, of which a call takes a few to come as far as waiting
        await asyncio.sleep(0)
    assert 0 < models.waiting()["first:small"] < 7
    go.set()
    await asyncio.gather(*calls)
    assert models.waiting() == {"first:small": 0}


async def test_readiness_tells_what_fails(opened: Open, project: Project) -> None:
    """The only model that fails is unhealthy, with its reason; beside one that answers it is degraded."""
    project.providers["first:small"].failure = Transient("weights are gone")
    project.providers["other:large"] = Provider(128, model="large")
    async with opened() as service:
        small, _ = await service.ready()
        assert (small.state, small.reason) == ("unhealthy", "weights are gone")
    async with opened(models=("first:small", "other:large")) as service:
        assert [each.state for each in await service.models.ready()] == ["degraded", "ok"]


async def test_a_fallback_that_answers_is_degraded(opened: Open, project: Project) -> None:
    """While the first provider is known to be down and another answers, the model is degraded, and says who."""
    project.providers["second:small"] = Provider(64, model="small")
    project.providers["first:small"].failure = Transient("down")
    async with opened(fallback={"small": ("second:small",)}) as service:
        for number in range(20):
            await service.embeddings.answer(
                EmbeddingsRequest(model="small", input=f"text {number}"), Caller()
            )
        (health,) = await service.models.ready()
        assert (health.state, health.reason) == ("degraded", "first:small is down; second:small answers")
        assert health.facts == {"first:small": "open", "second:small": "closed"}
        assert [breaker.name for breaker in service.models.breakers()] == ["first:small", "second:small"]
        with pytest.raises(NotFound, match=r"no breaker 'nonsense'.*first:small"):
            service.models.reset("nonsense")


async def test_the_cache_is_counted_cleared_and_warmed(opened: Open, project: Project) -> None:
    """Hits and misses are counted; after clearing, warming embeds the texts that were asked for most."""
    provider = project.providers["first:small"]
    async with opened() as service:
        for text, times in (("rare", 1), ("often", 3), ("now and then", 2)):
            for _ in range(times):
                await service.embeddings.answer(EmbeddingsRequest(model="small", input=text), Caller())
        (tier,) = service.models.caches()
        assert (tier.model, tier.hits, tier.misses, tier.vectors) == ("small", 3, 3, 3)
        await service.models.clear()
        provider.sent.clear()
        assert await service.models.warm("small", most=2) == 2
        assert provider.sent == ["often", "now and then"]
        answered = await service.embeddings.answer(EmbeddingsRequest(model="small", input="often"), Caller())
        assert answered.cached == 1
        with pytest.raises(NotFound):
            await service.models.warm("nonsense")


def test_the_most_used_texts_are_kept_in_little_memory() -> None:
    """However many texts come, few are kept, the frequent ones among them; long ones and big requests are not."""
    uses = PopularTexts(texts=100)
    for number in range(10_000):
        uses.note("m", "document", ["often", f"text {number}"])
        if number % 3 == 0:
            uses.note("m", "query", ["every third"])
    uses.note("m", "document", ["x" * (LONGEST + 1)])
    uses.note("m", "document", ["together"] * (TOGETHER + 1))
    found = uses.top("m", most=2)
    assert found == {"document": ["often"], "query": ["every third"]}
    assert sum(map(len, uses.top("m", most=10**6).values())) <= 101
    assert uses.top("other", most=5) == {}


async def test_a_search_is_counted_and_allowed(opened: Open, project: Project) -> None:
    """A search passes on what it is asked, for callers who may use the project's model, and counts the query."""
    async with opened() as service:
        caller = Caller(key="k", name="app")
        await service.search.find(caller, "two words", limit=3)
        ((vector, how),) = project.queries
        assert (len(vector), how) == (64, {"limit": 3})
        await service.search.find(caller, [0.0] * 64)
    day = "2026-01-01"
    assert await project.ledger.quotas.used(day, ["k"]) == {"k": 2}


async def test_a_query_is_embedded_as_other_texts_are(opened: Open, project: Project) -> None:
    """Queries share cache and breaker with requests for embeddings: while a provider is down none waits for it."""
    provider = project.providers["first:small"]
    async with opened() as service:
        asked = EmbeddingsRequest(model="small", input="a query", input_type="query")
        answered = await service.embeddings.answer(asked, Caller())
        await service.search.find(Caller(), "a query")
        assert project.queries == [(answered.vectors[0].tolist(), {})]
        assert provider.sent == ["a query"]
        provider.failure = Transient("down")
        for n in range(FAILURES):
            with pytest.raises(Transient, match="down"):
                await service.search.find(Caller(), f"query {n}")
        sent = len(provider.sent)
        with pytest.raises(Unavailable):
            await service.search.find(Caller(), "one more")
        assert len(provider.sent) == sent
        await service.search.find(Caller(), "a query")


async def test_a_query_by_a_model_that_is_not_served(opened: Open, project: Project) -> None:
    """Where the project's model is not served, also where its name leads to another, the project embeds queries."""
    project.providers["second:other"] = Provider(32, model="other")
    async with opened(models=("second:other",), aliases={"first:small": "second:other"}) as service:
        await service.search.find(Caller(), "two words")
    assert project.queries == [("two words", {})]


async def test_a_query_within_what_is_left_is_answered(opened: Open, project: Project) -> None:
    """A query is counted before it is refused for a quota, and refused where it is longer than any input may be."""
    caller = Caller(key="k", name="app", tier="small")
    async with opened(tiers={"small": TierLimits(tokens=3)}) as service:
        await service.search.find(caller, "two words")
        with pytest.raises(Exhausted):
            await service.search.find(caller, "two words")
        with pytest.raises(Rejected, match="maximum context length"):
            await service.search.find(Caller(), "word " * 10_000)
    assert len(project.queries) == 1


async def test_a_provider_stands_in_for_a_model_once(opened: Open, project: Project) -> None:
    """A chain that names the model itself, or another twice, asks each once."""
    project.providers["second:small"] = Provider(64, model="small")
    chain = ("first:small", "second:small", "second:small")
    async with opened(fallback={"first:small": chain}) as service:
        assert [breaker.name for breaker in service.models.breakers()] == ["first:small", "second:small"]


async def test_a_query_that_was_embedded_counts(
    opened: Open, project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A query is counted as soon as it was embedded, also where the search is then refused, and not where it failed."""

    async def refused(query: Any, **how: Any) -> SearchResults:
        raise NotFound(f"no collection {how}")

    caller = Caller(key="k", tier="small")
    async with opened(tiers={"small": TierLimits(tokens=10)}) as service:
        monkeypatch.setattr(project, "find", refused)
        with pytest.raises(NotFound):
            await service.search.find(caller, "two words", collection="none")
        project.providers["first:small"].failure = Transient("down")
        with pytest.raises(Transient):
            await service.search.find(caller, "three more words")
        assert service.quotas.left(caller) == 8
