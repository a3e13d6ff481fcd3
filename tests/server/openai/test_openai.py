"""The official OpenAI SDK, synchronous and asynchronous, over the network."""

from __future__ import annotations

import base64
import http.client
from typing import TYPE_CHECKING, Any

import numpy as np
import openai
import pytest
from rs_bpe.bpe import openai as bpe
from tests.server.conftest import MODEL, Running, write_project

from flowbed.testing.embedder import seeded

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

CL100K = bpe.cl100k_base()
TEXT = "Der Schlüssel hängt neben der Tür. 🔑"


@pytest.fixture(scope="module")
def client(server: Running) -> Iterator[openai.OpenAI]:
    """Create a client that never retries, so that no failure is hidden."""
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0) as opened:
        yield opened


def vectors_of(answer: Any) -> Any:
    """Read the vectors of a response as a caller does."""
    return np.array([each.embedding for each in answer.data], np.float32)


@pytest.mark.parametrize("encoding", ["float", "base64", None])
def test_sdk_one_text_gives_the_models_exact_vector_in_each_encoding(
    client: openai.OpenAI, encoding: Any
) -> None:
    requested: dict[str, Any] = {} if encoding is None else {"encoding_format": encoding}
    answer = client.embeddings.create(model=MODEL, input=TEXT, **requested)
    (only,) = answer.data
    vector = only.embedding
    if encoding == "base64":  # the SDK returns the requested encoding
        vector = np.frombuffer(base64.b64decode(str(vector)), "<f4").tolist()
    np.testing.assert_array_equal(np.array(vector, np.float32), seeded([TEXT], 64)[0])
    assert (answer.object, answer.model, only.object, only.index) == ("list", MODEL, "embedding", 0)


def test_sdk_several_texts_are_answered_in_order(client: openai.OpenAI) -> None:
    """Repeated texts too."""
    texts = [f"text {n % 7}" for n in range(50)]
    answer = client.embeddings.create(model=MODEL, input=texts)
    assert [each.index for each in answer.data] == list(range(50))
    np.testing.assert_array_equal(vectors_of(answer), seeded(texts, 64))


def test_sdk_cl100k_token_arrays_are_embedded_as_their_texts(client: openai.OpenAI) -> None:
    """As LangChain sends them."""
    tokens = [list(CL100K.encode(text)) for text in (TEXT, "another")]
    one = client.embeddings.create(model=MODEL, input=tokens[0])
    two = client.embeddings.create(model=MODEL, input=tokens)
    np.testing.assert_array_equal(vectors_of(one), seeded([TEXT], 64))
    np.testing.assert_array_equal(vectors_of(two), seeded([TEXT, "another"], 64))


def test_sdk_usage_of_a_cached_text_is_unchanged(client: openai.OpenAI) -> None:
    first, again = (client.embeddings.create(model=MODEL, input=["once", "more than once"]) for _ in range(2))
    assert first.usage == again.usage
    assert first.usage.prompt_tokens == first.usage.total_tokens > 0


def test_sdk_response_headers_name_request_space_and_provider(client: openai.OpenAI, server: Running) -> None:
    raw = client.embeddings.with_raw_response.create(model=MODEL, input="text")
    (served,) = server.service.models.listed()
    assert raw.headers["x-flowbed-space"] == served.space
    assert raw.headers["x-flowbed-provider"] == served.provider
    assert raw.headers["x-request-id"] == raw.request_id


def test_sdk_user_nulls_and_input_type_are_accepted(client: openai.OpenAI) -> None:
    nothing: Any = None
    answer = client.embeddings.create(
        model=MODEL,
        input="text",
        user="someone",
        dimensions=nothing,
        encoding_format=nothing,
        extra_body={"input_type": "query"},
    )
    assert len(answer.data) == 1


@pytest.mark.parametrize(
    ("requested", "error", "code"),
    [
        ({"model": "nobody"}, openai.NotFoundError, "model_not_found"),
        ({"input": ""}, openai.BadRequestError, None),
        ({"input": []}, openai.BadRequestError, None),
        ({"input": ["a", ""]}, openai.BadRequestError, None),
        ({"input": [[]]}, openai.BadRequestError, None),
        ({"input": ["a"] * 2049}, openai.BadRequestError, None),
        ({"input": [[1]] * 2049}, openai.BadRequestError, None),
        ({"input": "long " * 8193}, openai.BadRequestError, None),
        ({"input": ["long " * 8000] * 40}, openai.BadRequestError, "max_tokens_per_request"),
        ({"input": [5] * 8193}, openai.BadRequestError, None),
        ({"input": [[5] * 8000] * 40}, openai.BadRequestError, "max_tokens_per_request"),
        ({"dimensions": 32}, openai.BadRequestError, None),
        ({"dimensions": -1}, openai.BadRequestError, "integer_below_min_value"),
        ({"encoding_format": "hex"}, openai.BadRequestError, "invalid_value"),
        ({"extra_body": {"truncate": True}}, openai.BadRequestError, None),
    ],
)
def test_sdk_raises_its_own_error_for_each_refusal(
    client: openai.OpenAI, requested: dict[str, Any], error: type[openai.APIStatusError], code: str | None
) -> None:
    with pytest.raises(error) as caught:
        client.embeddings.create(**{"model": MODEL, "input": "text", **requested})
    assert caught.value.request_id
    if code is not None:
        assert caught.value.code == code
    assert caught.value.type is not None
    assert isinstance(caught.value.body, dict)
    assert set(caught.value.body) == {"message", "type", "param", "code"}


def test_limits_are_worded_as_openai_does(client: openai.OpenAI) -> None:
    wanted: dict[str, Any] = {
        "maximum context length is 8192 tokens, however you requested 8193 tokens": [5] * 8193,
        "Requested 320000 tokens, max 300000 tokens per request": [[5] * 8000] * 40,
        "'$.input' is invalid": ["a", ""],
    }
    for words, sent in wanted.items():
        with pytest.raises(openai.BadRequestError) as caught:
            client.embeddings.create(model=MODEL, input=sent)
        assert words in str(caught.value)


def test_sdk_models_are_listed_and_retrieved(client: openai.OpenAI) -> None:
    (listed,) = client.models.list()
    assert (listed.id, listed.object, listed.owned_by) == (MODEL, "model", "seeded")
    assert client.models.retrieve(MODEL) == listed
    with pytest.raises(openai.NotFoundError) as caught:
        client.models.retrieve("org/nobody")
    assert caught.value.code == "model_not_found"


async def test_sdk_async_concurrent_requests_get_their_own_vectors(server: Running) -> None:
    import asyncio

    async with openai.AsyncOpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0) as client:

        async def ask(n: int) -> None:
            texts = [f"{n % 10} {place}" for place in range(n % 5 + 1)]
            answer = await client.embeddings.create(model=MODEL, input=texts)
            np.testing.assert_array_equal(vectors_of(answer), seeded(texts, 64))

        await asyncio.gather(*(ask(n) for n in range(100)))
        assert [each.id async for each in client.models.list()] == [MODEL]
        with pytest.raises(openai.NotFoundError):
            await client.embeddings.create(model="nobody", input="text")


def test_sdk_wrong_key_forbidden_model_and_used_up_limits_raise_its_errors(tmp_path: Path) -> None:
    running = Running(
        write_project(
            tmp_path / "project",
            '[serve]\nmodels = ["seeded:64", "seeded:32"]\ntiers.slow = { requests_per_minute = 2 }\n'
            "tiers.poor = { tokens_per_day = 3 }",
        )
    )

    def client(**facts: Any) -> openai.OpenAI:
        _, secret = running.wait(
            running.service.keys.create("a key", secret=running.service.bed.secret, **facts)
        )
        return openai.OpenAI(base_url=f"{running.url}/v1", api_key=secret, max_retries=0)

    try:
        with client(tier="slow") as slow:
            raw = slow.embeddings.with_raw_response.create(model=MODEL, input="text")
            assert raw.headers["x-ratelimit-limit-requests"] == "2"
            assert raw.headers["x-ratelimit-remaining-requests"] == "1"
            slow.embeddings.create(model=MODEL, input="text")
            with pytest.raises(openai.RateLimitError) as limited:
                slow.embeddings.create(model=MODEL, input="text")
        assert limited.value.code == "rate_limit_exceeded"
        assert limited.value.response.headers["x-ratelimit-remaining-requests"] == "0"
        assert 0 < int(limited.value.response.headers["retry-after"]) <= 60
        with client(tier="poor") as poor, pytest.raises(openai.RateLimitError) as exhausted:
            poor.embeddings.create(model=MODEL, input="one two three four five")
        assert exhausted.value.code == exhausted.value.type == "insufficient_quota"
        assert exhausted.value.response.headers["x-should-retry"] == "false"
        with client(models=["seeded:32"]) as narrow:
            assert [each.id for each in narrow.models.list()] == ["seeded:32"]
            with pytest.raises(openai.PermissionDeniedError):
                narrow.embeddings.create(model=MODEL, input="text")
        with (
            openai.OpenAI(base_url=f"{running.url}/v1", api_key="fb-wrong", max_retries=0) as stranger,
            pytest.raises(openai.AuthenticationError) as unknown,
        ):
            stranger.models.list()
        assert unknown.value.code == "invalid_api_key"
    finally:
        running.close()


def test_sdk_does_not_retry_an_exhausted_quota(tmp_path: Path) -> None:
    running = Running(write_project(tmp_path / "project", "[serve]\ntiers.poor = { tokens_per_day = 1 }"))
    try:
        _, secret = running.wait(
            running.service.keys.create("a key", secret=running.service.bed.secret, tier="poor")
        )
        with (
            openai.OpenAI(base_url=f"{running.url}/v1", api_key=secret, max_retries=3) as client,
            pytest.raises(openai.RateLimitError),
        ):
            client.embeddings.create(model=MODEL, input="one two three four five")
        metrics = running.call("GET", "/metrics").body.decode()
        assert 'flowbed_http_requests_total{method="POST",route="/v1/embeddings",status="429"} 1.0' in metrics
    finally:
        running.close()


def test_sdk_body_too_large_gets_413_while_sending(tmp_path: Path) -> None:
    """Announced or in parts; the connection stays usable."""
    running = Running(write_project(tmp_path / "project", "[serve]\nbody_mb = 1"))
    try:
        with openai.OpenAI(base_url=f"{running.url}/v1", api_key="none", max_retries=0) as client:
            with pytest.raises(openai.APIStatusError) as caught:
                client.embeddings.create(model=MODEL, input="a" * 3_000_000)
            assert (caught.value.status_code, caught.value.code) == (413, "request_too_large")
            assert len(client.embeddings.create(model=MODEL, input="text").data) == 1
        host = running.url.removeprefix("http://")
        connection = http.client.HTTPConnection(host, timeout=60)
        parts = (b"a" * 100_000 for _ in range(30))
        connection.request(
            "POST", "/v1/embeddings", parts, {"content-type": "application/json"}, encode_chunked=True
        )
        assert connection.getresponse().status == 413
        connection.close()
    finally:
        running.close()
