"""Requests for embeddings."""

from __future__ import annotations

import asyncio
import logging
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from tests.services.conftest import Provider

from flowbed.errors import (
    Exhausted,
    Forbidden,
    Misconfigured,
    NotFound,
    Rejected,
    TooMany,
    Transient,
    Unavailable,
)
from flowbed.records.serving import Caller, EmbeddingsRequest, EmbeddingsResult, TierLimits
from flowbed.testing.embedder import seeded

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from contextlib import AbstractAsyncContextManager

    from tests.services.conftest import Project

    from flowbed.records import Embedded, Purpose
    from flowbed.services.service import Service

    Open = Callable[..., AbstractAsyncContextManager[Service]]

ANYONE = Caller()


async def ask(service: Service, given: Any, caller: Caller = ANYONE, **fields: Any) -> EmbeddingsResult:
    """Request the embeddings of an input."""
    return await service.embeddings.answer(
        EmbeddingsRequest(**{"model": "small", "input": given, **fields}), caller
    )


async def test_embed_texts_gives_vectors_in_their_order(opened: Open) -> None:
    """Repeated texts too; the result names who answered."""
    texts = ["one", "two words", "one", "three short words"]
    async with opened() as service:
        answered = await ask(service, texts)
        assert np.array_equal(answered.vectors, seeded(texts, 64))
        assert answered.tokens == 1 + 2 + 1 + 3
        assert (answered.model, answered.provider, answered.padded) == ("small", "first", False)
        assert answered.space == service.models.named("small").space.fingerprint


async def test_embed_cached_texts_have_the_same_usage(opened: Open, project: Project) -> None:
    """Only missing texts are sent, and once each."""
    async with opened() as service:
        first = await ask(service, ["one", "two words"])
        again = await ask(service, ["two words", "new ones here", "one", "two words"])
        assert (first.tokens, first.cached) == (3, 0)
        assert (again.tokens, again.cached) == (8, 3)
        assert project.providers["first:small"].sent == ["one", "two words", "new ones here"]
        alone = await ask(service, "one")
        assert (alone.tokens, alone.cached, alone.vectors.shape) == (1, 1, (1, 64))


async def test_embed_text_as_query_does_not_use_its_document_vector(opened: Open, project: Project) -> None:
    async with opened() as service:
        await ask(service, "one")
        await ask(service, "one", input_type="query")
        assert project.providers["first:small"].sent == ["one", "one"]


@pytest.mark.parametrize("name", ["small", "first:small", "text-embedding-3-small"])
async def test_embed_model_is_found_by_id_spec_and_alias(opened: Open, name: str) -> None:
    """The result names the model that answered."""
    async with opened(aliases={"text-embedding-3-small": "first:small"}) as service:
        assert (await ask(service, "one", model=name)).model == "small"


async def test_embed_unknown_model_is_not_found_with_openais_code(opened: Open) -> None:
    async with opened() as service:
        with pytest.raises(NotFound, match=r"`other` does not exist.*small") as caught:
            await ask(service, "one", model="other")
        assert (caught.value.param, caught.value.code) == ("model", "model_not_found")


async def test_embed_key_that_names_models_uses_no_others(opened: Open, project: Project) -> None:
    """An admin may use all unless the allowlist is strict."""
    project.providers["other:large"] = Provider(128, model="large")
    only = Caller(key="k", name="app", models=frozenset({"alias"}))
    both = {"models": ("first:small", "other:large"), "aliases": {"alias": "small"}}
    admin = Caller(key="k", admin=True, models=frozenset({"alias"}))
    async with opened(**both) as service:
        await ask(service, "one", only, model="first:small")
        with pytest.raises(Forbidden, match=r"`app` does not have access to model `large`.*alias"):
            await ask(service, "one", only, model="large")
        await ask(service, "one", admin, model="large")
        assert [each.id for each in service.models.listed(only)] == ["small"]
        assert [each.id for each in service.models.listed()] == ["small", "large"]
    async with opened(**both, allowlist="strict") as service:
        with pytest.raises(Forbidden):
            await ask(service, "one", admin, model="large")
    async with opened(**both, allowlist="off") as service:
        await ask(service, "one", only, model="large")


async def test_embed_invalid_request_is_refused_before_anything_is_sent(
    opened: Open, project: Project
) -> None:
    tiers = {"counted": TierLimits(tokens=100)}
    caller = Caller(key="k", tier="counted")
    async with opened(tiers=tiers) as service:
        for given, fields in (("", {}), (["a", ""], {}), ("a", {"dimensions": 32}), ([[100_300]], {})):
            with pytest.raises(Rejected):
                await ask(service, given, caller, **fields)
        with pytest.raises(
            Rejected, match="maximum context length is 8192 tokens, however you requested 9000"
        ):
            await ask(service, "word " * 9_000, caller)
        assert service.quotas.left(caller) == 100
    assert project.providers["first:small"].sent == []


async def test_embed_is_charged_for_answers_but_not_for_failures(opened: Open, project: Project) -> None:
    provider = project.providers["first:small"]
    caller = Caller(key="k", tier="counted")
    async with opened(tiers={"counted": TierLimits(tokens=10)}) as service:
        provider.failure = Transient("busy")
        with pytest.raises(Transient, match="busy"):
            await ask(service, "one two three", caller)
        provider.failure = None
        await ask(service, "one two three", caller)
        await ask(service, "one two three", caller)
        assert service.quotas.left(caller) == 4
        with pytest.raises(Exhausted, match="4 of 10 tokens a day are left, and this request needs 5"):
            await ask(service, "one two three four five", caller)
        # It has more letters than tokens are left, but fewer tokens: the service counts before it refuses.
        await ask(service, "onetwothree four", caller)
        assert service.quotas.left(caller) == 2


async def test_embed_concurrent_requests_stay_within_the_quota(opened: Open) -> None:
    caller = Caller(key="k", tier="counted")
    async with opened(tiers={"counted": TierLimits(tokens=1_000)}) as service:
        texts = [f"text {number} of three words"[:60] for number in range(300)]
        done = await asyncio.gather(*(ask(service, text, caller) for text in texts), return_exceptions=True)
        answered = [each for each in done if isinstance(each, EmbeddingsResult)]
        refused = [each for each in done if isinstance(each, Exhausted)]
        assert len(answered) + len(refused) == 300
        assert answered
        assert service.quotas.left(caller) == 1_000 - sum(each.tokens for each in answered)


async def test_embed_beyond_the_tiers_rate_is_refused(opened: Open) -> None:
    caller = Caller(key="k", tier="slow")
    async with opened(tiers={"slow": TierLimits(requests=2)}) as service:
        await ask(service, "one", caller)
        with pytest.raises(NotFound):
            await ask(service, "one", caller, model="other")
        with pytest.raises(TooMany):
            await ask(service, "one", caller)


async def test_embed_token_arrays_are_decoded_as_cl100k(opened: Open, project: Project) -> None:
    async with opened() as service:
        one = await ask(service, [15339, 1917])
        several = await ask(service, [[15339, 1917], [4438, 527, 499]])
        assert project.providers["first:small"].sent == ["hello world", "How are you"]
        assert np.array_equal(several.vectors, seeded(["hello world", "How are you"], 64))
        assert (one.tokens, several.tokens) == (2, 5)


@pytest.mark.parametrize(
    ("array", "message"),
    [
        ([100_300], "token 100300"),
        ([2**31], "token 2147483648"),
        ([100_257], "token 100257"),  # <|endoftext|>
        ([15339, 222, 15339], "Unicode"),  # half of a character, not at an end
        ([39, 68, 75, 75, 78], "text"),  # letter by letter, as the tokenizer never writes "Hello"
    ],
)
async def test_embed_undecodable_token_arrays_are_refused(
    opened: Open, array: list[int], message: str
) -> None:
    async with opened() as service:
        with pytest.raises(Rejected, match=message) as caught:
            await ask(service, [[15339], array])
        assert (caught.value.inputs, caught.value.param) == ((1,), "input")


async def test_embed_model_token_arrays_without_its_tokenizer_are_refused(opened: Open) -> None:
    async with opened(token_arrays="model") as service:  # noqa: S106 - tokens of text
        with pytest.raises(Rejected, match="send text"):
            await ask(service, [15339, 1917])


class TestDimensions:
    """Requests for other dimensions than the model's."""

    async def test_other_dimensions_without_a_policy_are_refused(self, opened: Open) -> None:
        async with opened() as service:
            assert (await ask(service, "one", dimensions=64)).vectors.shape == (1, 64)
            with pytest.raises(Rejected, match="64 dimensions, not 32") as caught:
                await ask(service, "one", dimensions=32)
            assert caught.value.param == "dimensions"

    async def test_fewer_dimensions_of_a_matryoshka_model_are_cut_and_normalized(
        self, opened: Open, project: Project
    ) -> None:
        """The cache keeps whole vectors."""
        project.providers["first:small"] = Provider(64, model="small", matryoshka=True)
        async with opened(dimensions="reduce") as service:
            whole = await ask(service, ["one", "two"])
            cut = await ask(service, ["one", "two"], dimensions=16, encoding="base64")
            expected = whole.vectors[:, :16] / np.linalg.norm(whole.vectors[:, :16], axis=1, keepdims=True)
            assert np.allclose(cut.vectors, expected, atol=1e-6)
            assert (cut.cached, cut.padded) == (2, False)
            assert cut.space != whole.space

    async def test_fewer_dimensions_of_other_models_are_refused(self, opened: Open) -> None:
        async with opened(dimensions="reduce") as service:
            with pytest.raises(Rejected, match="not trained to be shortened"):
                await ask(service, "one", dimensions=16)

    async def test_more_dimensions_are_padded_and_marked(self, opened: Open) -> None:
        async with opened(dimensions="pad") as service:
            answered = await ask(service, "one", dimensions=100)
            assert answered.padded
            assert answered.vectors.shape == (1, 100)
            assert not answered.vectors[:, 64:].any()
            with pytest.raises(Rejected, match="maximum of 16384"):
                await ask(service, "one", dimensions=2**31)

    async def test_other_dimensions_can_be_ignored(self, opened: Open) -> None:
        async with opened(dimensions="ignore") as service:
            answered = await ask(service, "one", dimensions=16)
            assert answered.vectors.shape == (1, 64)
            assert answered.space == service.models.named("small").space.fingerprint


class TestFallback:
    """Fallbacks for a failing provider."""

    async def test_fallback_of_the_same_space_answers_and_is_named(
        self, opened: Open, project: Project
    ) -> None:
        project.providers["second:small"] = Provider(64, model="small")
        project.providers["first:small"].failure = Transient("down")
        async with opened(fallback={"small": ("second:small",)}) as service:
            answered = await ask(service, "one")
            assert (answered.provider, answered.model) == ("second", "small")
            assert answered.space == service.models.named("small").space.fingerprint
            assert np.array_equal(answered.vectors, seeded(["one"], 64))

    async def test_fallback_of_another_space_without_crossing_is_misconfigured(
        self, opened: Open, project: Project
    ) -> None:
        project.providers["other:large"] = Provider(128, model="large")
        with pytest.raises(Misconfigured, match=r"other:large cannot be a fallback of first:small.*crossing"):
            async with opened(fallback={"small": ("other:large",)}):
                pass

    async def test_fallback_of_another_space_answers_only_requests_that_allow_it(
        self, opened: Open, project: Project
    ) -> None:
        project.providers["other:large"] = Provider(128, model="large")
        async with opened(fallback={"small": ("other:large",)}, crossing=True) as service:
            assert (await ask(service, "warm", crossing=True)).model == "small"
            project.providers["first:small"].failure = Transient("down", retry_after=7)
            with pytest.raises(Transient, match="down") as caught:
                await ask(service, "one")
            assert caught.value.retry_after == 7
            answered = await ask(service, ["one", "two"], crossing=True)
            assert (answered.model, answered.provider) == ("large", "other")
            assert answered.vectors.shape == (2, 128)
            assert answered.space == Provider(128, model="large").space.fingerprint
            assert (await ask(service, "warm", crossing=True)).model == "small"

    async def test_fallback_of_another_space_caches_nothing_for_the_first(
        self, opened: Open, project: Project
    ) -> None:
        project.providers["other:small"] = Provider(64, model="small-v2")
        project.providers["first:small"].failure = Transient("down")
        async with opened(fallback={"small": ("other:small",)}, crossing=True) as service:
            other = await ask(service, "one", crossing=True)
            project.providers["first:small"].failure = None
            mine = await ask(service, "one", crossing=True)
            assert (other.model, mine.model, mine.cached) == ("small-v2", "small", 0)
            assert other.space != mine.space

    async def test_fallback_of_another_space_respects_key_and_dimensions(
        self, opened: Open, project: Project
    ) -> None:
        project.providers["other:large"] = Provider(128, model="large")
        project.providers["first:small"].failure = Transient("down")
        only = Caller(key="k", models=frozenset({"small"}))
        async with opened(fallback={"small": ("other:large",)}, crossing=True) as service:
            with pytest.raises(Transient, match="down"):
                await ask(service, "one", only, crossing=True)
            with pytest.raises(Transient, match="down"):
                await ask(service, "one", crossing=True, dimensions=64)
            assert (await ask(service, "one", crossing=True)).model == "large"

    async def test_fallback_rejected_text_is_not_sent_to_the_next_provider(
        self, opened: Open, project: Project
    ) -> None:
        project.providers["second:small"] = Provider(64, model="small")
        async with opened(fallback={"small": ("second:small",)}) as service:
            with pytest.raises(Rejected, match="poison"):
                await ask(service, ["one", "POISON"])
        assert project.providers["second:small"].sent == []

    async def test_fallback_open_breaker_is_skipped_and_says_when_to_retry(
        self, opened: Open, project: Project
    ) -> None:
        provider = project.providers["first:small"]
        provider.failure = Transient("down")
        async with opened() as service:
            for number in range(20):
                with pytest.raises(Transient):
                    await ask(service, f"text {number}")
            assert len(provider.sent) < 20
            with pytest.raises(Unavailable) as caught:
                await ask(service, "one")
            assert caught.value.retry_after
            (breaker,) = service.models.breakers()
            provider.failure = None
            service.models.reset(breaker.name)
            assert (await ask(service, "one")).model == "small"


async def test_embed_concurrent_overlapping_texts_are_sent_once(opened: Open, project: Project) -> None:
    async with opened() as service:
        requested = [[f"text {number % 7}", f"text {number % 5}", f"own {number}"] for number in range(50)]
        answers = await asyncio.gather(*(ask(service, texts) for texts in requested))
        for texts, answered in zip(requested, answers, strict=True):
            assert np.array_equal(answered.vectors, seeded(texts, 64))
        sent = project.providers["first:small"].sent
        assert len(sent) == len(set(sent)) == 57


async def test_embed_logs_no_text_at_any_level(
    opened: Open, project: Project, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    async with opened() as service:
        await ask(service, "my secret words")
        with pytest.raises(Rejected):
            await ask(service, ["my secret words", "my secret POISON"])
        project.providers["first:small"].failure = Transient("down")
        with pytest.raises(Transient):
            await ask(service, "my other secret words")
        await service.models.clear()
    assert "secret" not in caplog.text


async def test_embed_non_finite_vectors_are_neither_answered_cached_nor_counted(
    opened: Open, project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    provider = project.providers["first:small"]
    embed = provider.embed

    async def broken(texts: Sequence[str], *, purpose: Purpose) -> Embedded:
        answer = await embed(texts, purpose=purpose)
        vectors = answer.vectors.copy()
        vectors[-1, 3] = np.nan
        return replace(answer, vectors=vectors)

    caller = Caller(key="k", tier="small")
    async with opened(tiers={"small": TierLimits(tokens=100)}) as service:
        monkeypatch.setattr(provider, "embed", broken)
        with pytest.raises(Transient, match="NaN or infinite"):
            await ask(service, ["one", "two words"], caller)
        monkeypatch.setattr(provider, "embed", embed)
        answered = await ask(service, ["one", "two words"], caller)
        assert np.array_equal(answered.vectors, seeded(["one", "two words"], 64))
        assert service.quotas.left(caller) == 97
