"""The served models."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest
from tests.services.conftest import RERANKED, Provider

from flowbed.embedding.wrappers.breaker import FAILURES
from flowbed.errors import Exhausted, Misconfigured, NotFound, Rejected, Transient, Unavailable
from flowbed.records.serving import Caller, EmbeddingsRequest, TierLimits
from flowbed.services.embedding.popular_texts import LONGEST, TOGETHER, PopularTexts
from flowbed.services.models import LOCAL_HOLDS, Models

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import AbstractAsyncContextManager

    from tests.services.conftest import Project

    from flowbed.records import SearchResults
    from flowbed.services.service import Service

    Open = Callable[..., AbstractAsyncContextManager[Service]]


async def test_models_are_listed_in_order_with_their_details(opened: Open, project: Project) -> None:
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
    ("settings", "message"),
    [
        ({"models": ("nobody:small",)}, "no provider nobody:small"),
        ({"aliases": {"mine": "large"}}, "alias 'mine' of 'large' cannot be used"),
        ({"aliases": {"small": "first:small"}}, "a new name"),
        ({"fallback": {"large": ("first:small",)}}, "fallback for large, which is not served"),
        ({"fallback": {"small": ("nobody:small",)}}, "no provider nobody:small"),
        ({"models": ("first:small", "second:small")}, "both served as 'small'"),
    ],
)
async def test_models_invalid_settings_are_refused_on_opening(
    opened: Open, project: Project, settings: Any, message: str
) -> None:
    project.providers["second:small"] = Provider(64, model="small")
    with pytest.raises(Misconfigured, match=message):
        async with opened(**settings):
            pass


async def test_ready_embeds_a_real_token_past_the_cache(opened: Open, project: Project) -> None:
    """Concurrent probes share one."""
    async with opened() as service:
        assert [(each.name, each.state) for each in await service.ready()] == [
            ("small", "ok"),
            ("ledger", "ok"),
        ]
        await service.ready()
        assert project.providers["first:small"].sent == ["ready"]


async def test_ready_probe_is_reused_for_seconds(project: Project) -> None:
    models = await Models.open(project, project.serving, monotonic=project.seconds)
    provider = project.providers["first:small"]
    await asyncio.gather(*(models.ready() for _ in range(10)))
    provider.failure = Transient("gone")
    assert [each.state for each in await models.ready()] == ["ok"]
    project.now.advance(seconds=LOCAL_HOLDS)
    assert [each.state for each in await models.ready()] == ["unhealthy"]
    assert provider.sent == ["ready", "ready"]


async def test_ready_probe_is_dropped_when_a_breaker_changes(project: Project) -> None:
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


async def test_waiting_counts_texts_by_model(project: Project) -> None:
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
    for _ in range(20):  # turns of the event loop, of which a call needs a few before it waits
        await asyncio.sleep(0)
    assert 0 < models.waiting()["first:small"] < 7
    go.set()
    await asyncio.gather(*calls)
    assert models.waiting() == {"first:small": 0}


async def test_ready_failing_model_is_unhealthy_alone_and_degraded_beside_others(
    opened: Open, project: Project
) -> None:
    project.providers["first:small"].failure = Transient("weights are gone")
    project.providers["other:large"] = Provider(128, model="large")
    async with opened() as service:
        small, _ = await service.ready()
        assert (small.state, small.reason) == ("unhealthy", "weights are gone")
    async with opened(models=("first:small", "other:large")) as service:
        assert [each.state for each in await service.models.ready()] == ["degraded", "ok"]


async def test_ready_answered_by_the_fallback_is_degraded_and_names_it(
    opened: Open, project: Project
) -> None:
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


async def test_cache_counts_clears_and_warms_with_popular_texts(opened: Open, project: Project) -> None:
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


def test_popular_texts_keeps_few_and_the_frequent_ones() -> None:
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


async def test_search_counts_tokens_for_callers_that_may_use_the_model(
    opened: Open, project: Project
) -> None:
    async with opened() as service:
        caller = Caller(key="k", name="app")
        await service.search.find(caller, "two words", limit=3)
        ((vector, how),) = project.queries
        assert (len(vector), how) == (64, {"limit": 3, "text": "two words"})
        await service.search.find(caller, [0.0] * 64)
    day = "2026-01-01"
    assert await project.ledger.quotas.used(day, ["k"]) == {"k": 2}


async def test_search_that_reranks_counts_the_tokens_read(opened: Open, project: Project) -> None:
    """With a query that is embedded, with words alone, and with a vector."""
    async with opened() as service:
        caller = Caller(key="k", name="app")
        for query, how in (("two words", {}), ("two words", {"mode": "text"}), ([0.0] * 64, {"text": "a"})):
            await service.search.find(caller, query, rerank=True, **how)
        await service.search.find(caller, "two words", mode="text")
    assert await project.ledger.quotas.used("2026-01-01", ["k"]) == {"k": 2 + 3 * RERANKED}


async def test_search_query_shares_cache_and_breaker_with_requests(opened: Open, project: Project) -> None:
    provider = project.providers["first:small"]
    async with opened() as service:
        requested = EmbeddingsRequest(model="small", input="a query", input_type="query")
        answered = await service.embeddings.answer(requested, Caller())
        await service.search.find(Caller(), "a query")
        assert project.queries == [(answered.vectors[0].tolist(), {"text": "a query"})]
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


async def test_search_model_not_served_lets_the_project_embed(opened: Open, project: Project) -> None:
    project.providers["second:other"] = Provider(32, model="other")
    async with opened(models=("second:other",), aliases={"first:small": "second:other"}) as service:
        await service.search.find(Caller(), "two words")
    assert project.queries == [("two words", {})]


async def test_search_query_is_counted_before_it_is_refused_for_a_quota(
    opened: Open, project: Project
) -> None:
    caller = Caller(key="k", name="app", tier="small")
    async with opened(tiers={"small": TierLimits(tokens=3)}) as service:
        await service.search.find(caller, "two words")
        with pytest.raises(Exhausted):
            await service.search.find(caller, "two words")
        with pytest.raises(Rejected, match="maximum context length"):
            await service.search.find(Caller(), "word " * 10_000)
    assert len(project.queries) == 1


async def test_fallback_named_twice_is_tried_once(opened: Open, project: Project) -> None:
    project.providers["second:small"] = Provider(64, model="small")
    chain = ("first:small", "second:small", "second:small")
    async with opened(fallback={"first:small": chain}) as service:
        assert [breaker.name for breaker in service.models.breakers()] == ["first:small", "second:small"]


async def test_search_refused_after_embedding_counts_the_query(
    opened: Open, project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
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
