"""APIs of single vendors: fields of their requests, forms of their responses and refusals."""

from __future__ import annotations

import base64
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
import orjson
import pytest

from flowbed.embedding import open_embedder
from flowbed.embedding.providers.cohere import CohereApi, open_cohere
from flowbed.embedding.providers.huggingface import HuggingFaceApi
from flowbed.embedding.providers.openai import OpenAIApi, open_openai
from flowbed.embedding.providers.voyage import VoyageApi, open_voyage
from flowbed.errors import Misconfigured, Rejected, Transient
from flowbed.http.client import HttpResponse
from flowbed.testing.simulators import (
    Azure,
    Cohere,
    Fault,
    HuggingFace,
    Limits,
    OpenAI,
    Simulator,
    Voyage,
    running,
    vector_of,
)

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from flowbed.embedding.providers.client import RemoteEmbedder
    from flowbed.testing.simulators.wire import Api

KEYS = {"api_key": "sk-1"}


def refusal(status: int, body: Any, **headers: str) -> HttpResponse:
    """Create a provider's response."""
    return HttpResponse(status=status, headers=headers, body=orjson.dumps(body))


@asynccontextmanager
async def asking(
    api: Api, model: str, folder: Path, path: str = "", **options: Any
) -> AsyncIterator[tuple[RemoteEmbedder, Simulator]]:
    """Open a model of a simulated provider."""
    simulator = Simulator(api, limits=options.pop("limits", None))
    async with running(simulator) as url:
        embedder: Any = open_embedder(
            model, cache=folder, options={**KEYS, "base_url": url + path, **options}
        )
        try:
            yield embedder, simulator
        finally:
            await embedder.aclose()


def test_openai_request_has_base64_and_only_unusual_dimensions() -> None:
    """Base64 is a fifth of the bytes of numbers; models refuse unknown fields."""
    assert OpenAIApi("m").body(["a"], "document") == {
        "input": ["a"],
        "model": "m",
        "encoding_format": "base64",
    }
    body = OpenAIApi("m", dimensions=8, encoding="", input_types=True).body(["a"], "query")
    assert body == {"input": ["a"], "model": "m", "dimensions": 8, "input_type": "query"}


def test_openai_response_may_mix_numbers_and_base64() -> None:
    encoded = base64.b64encode(np.array([0.5, 1.5], "<f4").tobytes()).decode()
    data = [{"index": 1, "embedding": [2, 3.5]}, {"index": 0, "embedding": encoded}]
    read = OpenAIApi("m").read({"data": data, "usage": {"total_tokens": 4}}, 2)
    assert read.embeddings == [encoded, [2, 3.5]]
    assert read.tokens == 4


@pytest.mark.parametrize(
    "indices", [[0], [0, 0], [0, 2], [1, 2], [0, None], [0, "1"], [0, True], [-1, 0], [0, 1, 2]]
)
def test_openai_response_with_wrong_indexes_is_transient(indices: list[Any]) -> None:
    """No vector of such a response is used."""
    data = [{"index": index, "embedding": [1.0]} for index in indices]
    with pytest.raises(Transient):
        OpenAIApi("m").read({"data": data}, 2)


@pytest.mark.parametrize(
    "payload", [{}, {"data": None}, {"data": [1, 2]}, {"data": {}}, [], "error", {"error": {}}]
)
def test_unexpected_success_response_is_transient(payload: Any) -> None:
    """Some proxies return an error with status 200."""
    with pytest.raises(Transient):
        OpenAIApi("m").read(payload, 2)


@pytest.mark.parametrize(
    ("status", "error", "verdict"),
    [
        (429, {"code": "insufficient_quota", "type": "insufficient_quota"}, "misconfigured"),
        (429, {"code": "rate_limit_exceeded", "type": "tokens"}, None),
        (
            429,
            {"code": "rate_limit_exceeded", "message": "Request too large for m on tokens per min"},
            "too_large",
        ),
        (400, {"code": "max_tokens_per_request", "type": "max_tokens_per_request"}, "too_large"),
        (400, {"message": "This model does not support specifying dimensions."}, "misconfigured"),
        (400, {"message": "Unrecognized request argument supplied: input_type"}, "misconfigured"),
        (422, {"message": "batch size 64 > maximum allowed batch size 32"}, "too_large"),
        (400, {"message": "Too many tokens in batch. Max is 16384 got 17555"}, "too_large"),
        (
            400,
            {"message": "This model's maximum context length is 8192 tokens, however you requested 9"},
            None,
        ),
        (500, {"code": "rate_limit_exceeded", "message": "array too long"}, None),
    ],
)
def test_openai_errors_are_distinguished(status: int, error: dict[str, str], verdict: str | None) -> None:
    """An exhausted account is not a rate limit, and a request that is too large may succeed in parts."""
    assert OpenAIApi("m").refused(refusal(status, {"error": error})).verdict == verdict


async def test_openai_too_long_text_is_rejected_unsent(tmp_path: Path) -> None:
    async with asking(OpenAI(), "openai:text-embedding-3-small", tmp_path, "/v1") as (embedder, simulator):
        with pytest.raises(Rejected) as refused:
            await embedder.embed(["fine", "word " * 8_193, "fine", "x " * 9_000], purpose="document")
        assert refused.value.inputs == (1, 3)
        await embedder.embed(["word" + " word" * 8_191], purpose="document")
    assert [len(exchange.texts) for exchange in simulator.account.exchanges] == [1]


async def test_openai_call_is_split_below_the_token_limit(tmp_path: Path) -> None:
    text = "word" + " word" * 7_999
    async with asking(OpenAI(), "openai:text-embedding-3-small", tmp_path, "/v1", dimensions="8") as (
        embedder,
        simulator,
    ):
        found = await embedder.embed(
            [f"{number} {text}"[: len(text)] for number in range(40)], purpose="document"
        )
    assert found.tokens > 300_000
    assert sorted(exchange.status for exchange in simulator.account.exchanges) == [200, 200]


async def test_vendors_response_in_any_order_keeps_the_texts_vectors(tmp_path: Path) -> None:
    texts = [f"text {number}" for number in range(50)]
    async with asking(
        OpenAI(), "openai:text-embedding-3-large", tmp_path, "/v1", dimensions="64", items="7"
    ) as (embedder, simulator):
        simulator.order(Fault(kind="wrong_order"))
        found = await embedder.embed(texts, purpose="document")
    for text, vector in zip(texts, found.vectors, strict=True):
        np.testing.assert_allclose(vector, vector_of("text-embedding-3-large", text, 64), atol=1e-6)


def test_openai_azure_and_compatible_share_one_space(tmp_path: Path) -> None:
    spaces = {
        open_embedder(f"{vendor}:text-embedding-3-small", cache=tmp_path, options=options).space.fingerprint
        for vendor, options in (
            ("openai", KEYS),
            (
                "openai",
                {**KEYS, "base_url": "https://x.openai.azure.com/openai/deployments/a", "api_version": "1"},
            ),
            ("compatible", {"base_url": "http://localhost:9"}),
        )
    }
    assert len(spaces) == 1


@pytest.mark.parametrize(
    ("path", "options"),
    [
        ("/openai/deployments/large", {"api_version": "2024-10-21"}),
        ("/openai/v1", {"deployment": "large"}),
    ],
)
async def test_azure_deployment_has_openais_vectors(
    tmp_path: Path, path: str, options: dict[str, str]
) -> None:
    """At either kind of Azure's addresses."""
    api = Azure(deployments={"large": "text-embedding-3-large"}, keys=["sk-1"])
    async with asking(api, "openai:text-embedding-3-large", tmp_path, path, dimensions="64", **options) as (
        embedder,
        _,
    ):
        found = await embedder.embed(["a"], purpose="document")
        assert embedder.space.model == "text-embedding-3-large"
    np.testing.assert_allclose(found.vectors[0], vector_of("text-embedding-3-large", "a", 64), atol=1e-6)


def test_voyage_request_disables_truncation() -> None:
    assert VoyageApi("m", dimensions=512).body(["a"], "query") == {
        "input": ["a"],
        "model": "m",
        "input_type": "query",
        "truncation": False,
        "encoding_format": "base64",
        "output_dimension": 512,
    }


@pytest.mark.parametrize(
    ("said", "inputs"),
    [
        ("The example at index 3 in your batch has too many tokens and does not fit", (3,)),
        ("The example(s) at indices 0, 2 and 17 in your batch have too many tokens", (0, 2, 17)),
        ("The examples at index 4, 5 in your batch", (4, 5)),
    ],
)
def test_voyage_too_long_texts_are_rejected_by_position(said: str, inputs: tuple[int, ...]) -> None:
    assert VoyageApi("m", dimensions=None).refused(refusal(400, {"detail": said})).inputs == inputs


async def test_voyage_too_large_request_is_halved(tmp_path: Path) -> None:
    texts = [f"{number} " + "word " * 12_000 for number in range(12)]
    async with asking(
        Voyage(), "voyage:voyage-code-3", tmp_path, "/v1", dimensions="256", tokens="1000000"
    ) as (embedder, simulator):
        found = await embedder.embed(texts, purpose="document")
    assert [exchange.status for exchange in simulator.account.exchanges] == [400, 200, 200]
    for text, vector in zip(texts, found.vectors, strict=True):
        np.testing.assert_allclose(vector, vector_of("voyage-code-3", text, 256, "document"), atol=1e-6)


@pytest.mark.parametrize(("key", "host"), [("pa-1", "api.voyageai.com"), ("al-1", "ai.mongodb.com")])
def test_voyage_key_of_mongodb_uses_its_address(tmp_path: Path, key: str, host: str) -> None:
    embedder = open_voyage("voyage-4", cache=tmp_path, options={"api_key": key})
    assert host in embedder._provider.label


def test_voyage_rates_are_the_first_tiers(tmp_path: Path) -> None:
    """Unless the options say otherwise."""
    assert open_voyage("voyage-4", cache=tmp_path, options=KEYS).rates.tokens == 8_000_000
    more = open_voyage("voyage-4", cache=tmp_path, options={**KEYS, "tokens_per_minute": "16000000"})
    assert (more.rates.requests, more.rates.tokens) == (2_000, 16_000_000)


async def test_voyage_and_cohere_requests_have_the_purpose(tmp_path: Path) -> None:
    for api, model, path, types in (
        (Voyage(), "voyage:voyage-4", "/v1", ["document", "query"]),
        (Cohere(), "cohere:embed-v4.0", "", ["search_document", "search_query"]),
    ):
        async with asking(api, model, tmp_path, path) as (embedder, simulator):
            document = await embedder.embed(["a text"], purpose="document")
            query = await embedder.embed(["a text"], purpose="query")
        assert [exchange.input_type for exchange in simulator.account.exchanges] == types
        assert not np.allclose(document.vectors, query.vectors)


def test_cohere_request_has_type_and_disables_truncation() -> None:
    assert CohereApi("m", dimensions=None).body(["a"], "document") == {
        "texts": ["a"],
        "input_type": "search_document",
        "model": "m",
        "embedding_types": ["float"],
        "truncate": "NONE",
    }


@pytest.mark.parametrize(
    ("status", "said", "verdict"),
    [
        (429, "You are using a Trial key, which is limited to 1000 API calls / month.", "misconfigured"),
        (429, "You are using a Trial key, which is limited to 100 API calls / minute.", None),
        (498, "blocked input: please rephrase", "rejected"),
        (498, "invalid token", "misconfigured"),
        (400, "invalid request: total number of texts must be at most 96 - received 131", "too_large"),
        (404, "model 'x' not found", None),
    ],
)
def test_cohere_errors_are_distinguished(status: int, said: str, verdict: str | None) -> None:
    """A monthly limit is not a rate limit, and 498 has two meanings."""
    assert CohereApi("m", dimensions=None).refused(refusal(status, {"message": said})).verdict == verdict


def test_cohere_rate_counts_texts(tmp_path: Path) -> None:
    """2,000 a minute in any number of requests, and 96 in each."""
    embedder = open_cohere("embed-v4.0", cache=tmp_path, options={**KEYS, "items": "500"})
    assert (embedder.rates.inputs, embedder.rates.requests, embedder.items) == (2_000, None, 96)


def test_huggingface_token_vectors_are_pooled() -> None:
    answer = [[[1.0, 2.0], [3.0, 4.0]], [[5.0, 6.0]], [[[7.0, 8.0], [9.0, 10.0]]], [11.0, 12.0]]
    mean = HuggingFaceApi("", pooling="mean", prompt_names={}).read(answer, 4)
    assert mean.embeddings == [[2.0, 3.0], [5.0, 6.0], [8.0, 9.0], [11.0, 12.0]]
    first = HuggingFaceApi("", pooling="cls", prompt_names={}).read(answer, 4)
    assert first.embeddings == [[1.0, 2.0], [5.0, 6.0], [7.0, 8.0], [11.0, 12.0]]


@pytest.mark.parametrize(
    "answer", [[[[1.0, 2.0], [3.0]]], [[[[[1.0]]]]], [[["a"]]], "no list", [[1.0], [2.0]]]
)
def test_huggingface_unpoolable_response_is_transient(answer: Any) -> None:
    with pytest.raises(Transient):
        HuggingFaceApi("", pooling="mean", prompt_names={}).read(answer, 1)


def test_huggingface_loading_model_tells_the_wait() -> None:
    api = HuggingFaceApi("", pooling="mean", prompt_names={})
    refused = api.refused(refusal(503, {"error": "Model x is currently loading", "estimated_time": 20.5}))
    assert (refused.verdict, refused.retry_after) == ("transient", 20.5)
    assert api.refused(refusal(503, {"error": "no"})).retry_after is None


async def test_huggingface_prompt_name_is_sent_and_part_of_the_space(tmp_path: Path) -> None:
    async with asking(
        HuggingFace(),
        "huggingface:intfloat/multilingual-e5-large",
        tmp_path,
        "/hf-inference",
        query_prompt_name="query",
        document_prompt_name="passage",
    ) as (embedder, simulator):
        await embedder.embed(["a"], purpose="query")
        await embedder.embed(["a"], purpose="document")
    assert [exchange.input_type for exchange in simulator.account.exchanges] == ["query", "passage"]
    assert dict(embedder.space.prompts) == {"document": "prompt_name:passage", "query": "prompt_name:query"}


async def test_rate_limited_request_tells_the_wait(tmp_path: Path) -> None:
    async with asking(
        OpenAI(), "openai:text-embedding-3-small", tmp_path, "/v1", limits=Limits(requests=1)
    ) as (embedder, _):
        await embedder.embed(["a"], purpose="document")
        with pytest.raises(Transient) as busy:
            await embedder.embed(["a"], purpose="document")
    assert busy.value.retry_after is not None
    assert 0 < busy.value.retry_after <= 60


@pytest.mark.parametrize("vendor", ["openai", "voyage", "cohere", "huggingface"])
def test_open_without_a_key_names_the_variable(vendor: str, tmp_path: Path) -> None:
    model = {
        "openai": "text-embedding-3-small",
        "voyage": "voyage-4",
        "cohere": "embed-v4.0",
        "huggingface": "BAAI/bge-m3",
    }[vendor]
    with pytest.raises(Misconfigured, match=r"[A-Z]+_[A-Z]+.*\[providers\."):
        open_embedder(f"{vendor}:{model}", cache=tmp_path, options={})


def test_open_unknown_model_needs_dimensions_and_price(tmp_path: Path) -> None:
    with pytest.raises(Misconfigured, match="dimensions"):
        open_openai("text-embedding-9", cache=tmp_path, options=KEYS)
    with pytest.raises(Misconfigured, match=r"\[prices\]"):
        open_openai("text-embedding-9", cache=tmp_path, options={**KEYS, "dimensions": "10"})
    opened = open_openai(
        "text-embedding-9", cache=tmp_path, options={**KEYS, "dimensions": "10", "price": "1.5"}
    )
    assert (opened.space.dimensions, opened.price) == (10, 1.5)


def test_open_model_of_another_vendor_has_its_price(tmp_path: Path) -> None:
    """A gateway that speaks OpenAI's API bills another vendor's model at that vendor's price."""
    opened = open_openai("voyage-4", cache=tmp_path, options={**KEYS, "dimensions": "1024"})
    assert opened.price == 0.06


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"dimensions": "4000"}, "dimensions"),
        ({"items": "none"}, "items"),
        ({"timeout": "soon"}, "timeout"),
        ({"price": "-1"}, "price"),
        ({"colour": "blue"}, "colour"),
        ({"base_url": "nowhere"}, "base_url"),
    ],
)
def test_open_invalid_option_is_misconfigured(options: dict[str, str], named: str, tmp_path: Path) -> None:
    with pytest.raises(Misconfigured, match=named):
        open_openai("text-embedding-3-small", cache=tmp_path, options={**KEYS, **options})


def test_open_every_known_model_has_a_price(tmp_path: Path) -> None:
    from flowbed.embedding.providers import cohere, openai, voyage

    for vendor, module in (("openai", openai), ("voyage", voyage), ("cohere", cohere)):
        for name, model in module.MODELS.items():
            opened = open_embedder(f"{vendor}:{name}", cache=tmp_path, options=KEYS)
            assert opened.price == model.price > 0
