"""The simulated OpenAI, compared with its own client and the errors it is known to return."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import openai
import pytest

from flowbed.testing.simulators import (
    Azure,
    Fault,
    Limits,
    OpenAI,
    Simulator,
    running,
    running_thread,
    vector_of,
)

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from numpy.typing import NDArray
    from tests.testing.simulators.conftest import Post

SMALL, LARGE, ADA = "text-embedding-3-small", "text-embedding-3-large", "text-embedding-ada-002"
# What cl100k_base makes of texts, from the tokenizer's own publication.
TOKENS = {"hello world": [15339, 1917], "tiktoken is great!": [83, 1609, 5963, 374, 2294, 0]}


def floats(numbers: list[float]) -> NDArray[np.float32]:
    return np.array(numbers, np.float32)


@pytest.fixture
async def url() -> AsyncIterator[str]:
    async with running(Simulator(OpenAI(keys=["sk-right"]))) as url:
        yield url


@pytest.fixture
async def client(url: str) -> AsyncIterator[openai.AsyncOpenAI]:
    async with openai.AsyncOpenAI(base_url=f"{url}/v1", api_key="sk-right", max_retries=0) as client:
        yield client


async def test_openai_base64_returns_each_texts_vector(client: openai.AsyncOpenAI) -> None:
    """Base64 is the client's default; tokens are counted as tiktoken does."""
    answer = await client.embeddings.create(model=SMALL, input=list(TOKENS))
    assert [each.index for each in answer.data] == [0, 1]
    for text, each in zip(TOKENS, answer.data, strict=True):
        assert np.array_equal(floats(each.embedding), vector_of(SMALL, text, 1536))
    assert answer.usage.prompt_tokens == answer.usage.total_tokens == 8
    assert (answer.object, answer.model, answer.data[0].object) == ("list", SMALL, "embedding")


async def test_openai_float_equals_base64(client: openai.AsyncOpenAI) -> None:
    as_numbers = await client.embeddings.create(model=LARGE, input="a", encoding_format="float")
    as_bytes = await client.embeddings.create(model=LARGE, input="a")
    assert np.array_equal(floats(as_numbers.data[0].embedding), floats(as_bytes.data[0].embedding))
    assert len(as_numbers.data[0].embedding) == 3072


@pytest.mark.parametrize("many", [True, False])
async def test_openai_token_arrays_get_the_vectors_of_their_texts(
    client: openai.AsyncOpenAI, many: bool
) -> None:
    tokens = list(TOKENS.values()) if many else TOKENS["hello world"]
    answer = await client.embeddings.create(model=ADA, input=tokens)
    texts = list(TOKENS) if many else ["hello world"]
    for text, each in zip(texts, answer.data, strict=True):
        assert np.array_equal(floats(each.embedding), vector_of(ADA, text, 1536))
    assert answer.usage.total_tokens == (8 if many else 2)


async def test_openai_tokens_of_half_characters_get_distinct_vectors(client: openai.AsyncOpenAI) -> None:
    one = await client.embeddings.create(model=SMALL, input=[222])
    other = await client.embeddings.create(model=SMALL, input=[223])
    assert one.data[0].embedding != other.data[0].embedding


async def test_openai_fewer_dimensions_are_a_scaled_prefix(client: openai.AsyncOpenAI) -> None:
    whole = await client.embeddings.create(model=LARGE, input="a")
    short = await client.embeddings.create(model=LARGE, input="a", dimensions=256)
    beginning = floats(whole.data[0].embedding)[:256]
    np.testing.assert_allclose(short.data[0].embedding, beginning / np.linalg.norm(beginning), atol=1e-6)
    assert np.array_equal(floats(short.data[0].embedding), vector_of(LARGE, "a", 256))


@pytest.mark.parametrize(
    ("payload", "status", "error"),
    [
        ({"input": "a"}, 400, {"message": "you must provide a model parameter"}),
        ({"input": "a", "model": "text-embedding-4"}, 404, {"code": "model_not_found"}),
        ({"model": SMALL}, 400, {"message": "'$.input' is invalid"}),
        ({"model": SMALL, "input": None}, 400, {"message": "'$.input' is invalid"}),
        ({"model": SMALL, "input": ""}, 400, {"message": "'$.input' is invalid"}),
        ({"model": SMALL, "input": []}, 400, {"message": "'$.input' is invalid"}),
        ({"model": SMALL, "input": ["a", ""]}, 400, {"message": "'$.input' is invalid"}),
        ({"model": SMALL, "input": ["a", 1]}, 400, {"message": "'$.input' is invalid"}),
        ({"model": SMALL, "input": [[1], []]}, 400, {"message": "'$.input' is invalid"}),
        ({"model": SMALL, "input": [1, -1]}, 400, {"message": "'$.input' is invalid"}),
        ({"model": SMALL, "input": [True, False]}, 400, {"message": "'$.input' is invalid"}),
        ({"model": SMALL, "input": [100_256]}, 400, {"message": "'$.input' is invalid"}),
        ({"model": SMALL, "input": ["a"] * 2049}, 400, {"code": "array_above_max_length", "param": "input"}),
        ({"model": SMALL, "input": "a", "dimensions": 0}, 400, {"param": "dimensions"}),
        ({"model": SMALL, "input": "a", "dimensions": 1537}, 400, {"param": "dimensions"}),
        ({"model": SMALL, "input": "a", "dimensions": "8"}, 400, {"param": "dimensions"}),
        (
            {"model": ADA, "input": "a", "dimensions": 8},
            400,
            {"message": "does not support specifying dimensions"},
        ),
        ({"model": SMALL, "input": "a", "encoding_format": "int8"}, 400, {"param": "encoding_format"}),
        ({"model": SMALL, "input": "a", "user": 1}, 400, {"param": "user"}),
        (
            {"model": SMALL, "input": "a", "input_type": "query"},
            400,
            {"message": "Unrecognized request argument"},
        ),
        ({"model": SMALL, "input": "a " * 8193}, 400, {"message": "maximum context length is 8192 tokens"}),
        (
            {"model": SMALL, "input": [[1] * 8000] * 38},
            400,
            {
                "type": "max_tokens_per_request",
                "code": "max_tokens_per_request",
                "message": "304000 tokens, max 300000",
            },
        ),
        (b"{", 400, {"message": "could not parse the JSON body"}),
        (b"[]", 400, {"message": "could not parse the JSON body"}),
    ],
    ids=lambda value: str(value)[:70],
)
async def test_openai_invalid_request_has_status_and_four_error_fields(
    url: str, post: Post, payload: Any, status: int, error: dict[str, str]
) -> None:
    response = await post(f"{url}/v1/embeddings", payload, key="sk-right")
    assert response.status == status
    found = response.json["error"]
    assert set(found) == {"message", "type", "param", "code"}
    assert error.pop("message", "") in found["message"]
    assert error.items() <= found.items()
    assert found["type"] in {"invalid_request_error", "max_tokens_per_request"}


async def test_openai_null_field_counts_as_absent(url: str, post: Post) -> None:
    payload = {"model": SMALL, "input": "a", "dimensions": None, "encoding_format": None, "user": None}
    response = await post(f"{url}/v1/embeddings", payload, key="sk-right")
    assert response.status == 200
    assert len(response.json["data"][0]["embedding"]) == 1536


@pytest.mark.parametrize(
    ("method", "path", "key", "status"),
    [
        ("POST", "/v1/embeddings", "", 401),
        ("POST", "/v1/embeddings", "sk-wrong", 401),
        ("GET", "/v1/embeddings", "sk-right", 405),
        ("POST", "/v1/models", "sk-right", 405),
        ("GET", "/v1/models/none", "sk-right", 404),
        ("POST", "/v1/embedding", "sk-right", 404),
    ],
)
async def test_openai_wrong_key_method_or_path_is_refused(
    url: str, post: Post, method: str, path: str, key: str, status: int
) -> None:
    response = await post(f"{url}{path}", {}, key=key, method=method)
    assert response.status == status
    assert set(response.json["error"]) == {"message", "type", "param", "code"}


async def test_openai_wrong_key_error_hides_the_key(url: str) -> None:
    """It shows the last letters only."""
    async with openai.AsyncOpenAI(base_url=f"{url}/v1", api_key="sk-secret-wrong", max_retries=0) as client:
        with pytest.raises(openai.AuthenticationError) as caught:
            await client.embeddings.create(model=SMALL, input="a")
    assert caught.value.code == "invalid_api_key"
    assert "sk-secret" not in str(caught.value)


async def test_openai_models_are_listed_and_retrieved(client: openai.AsyncOpenAI) -> None:
    listed = [model async for model in client.models.list()]
    assert [model.id for model in listed] == [SMALL, LARGE, ADA]
    assert await client.models.retrieve(ADA) == listed[2]


async def test_openai_answers_have_request_id_and_simulator_header(url: str, post: Post) -> None:
    good = await post(f"{url}/v1/embeddings", {"model": SMALL, "input": "a"}, key="sk-right")
    bad = await post(f"{url}/v1/embeddings", {}, key="sk-right")
    for response in (good, bad):
        assert response.headers["X-Flowbed-Simulator"] == "1"
        assert response.headers["openai-processing-ms"].isdecimal()
    assert good.headers["x-request-id"] != bad.headers["x-request-id"]


async def test_openai_not_strict_ignores_unknown_fields(post: Post) -> None:
    async with running(Simulator(OpenAI(strict=False))) as url:
        response = await post(f"{url}/v1/embeddings", {"model": SMALL, "input": "a", "input_type": "query"})
    assert response.status == 200


def test_running_thread_answers_a_blocking_client() -> None:
    with (
        running_thread(Simulator(OpenAI())) as url,
        openai.OpenAI(base_url=f"{url}/v1", api_key="any", max_retries=0) as client,
    ):
        answer = client.embeddings.create(model=SMALL, input="a")
    assert np.array_equal(floats(answer.data[0].embedding), vector_of(SMALL, "a", 1536))


async def test_openai_client_waits_for_retry_after() -> None:
    simulator = Simulator(
        OpenAI(),
        faults=[Fault(kind="rate_limited", calls=(1,), retry_after=0.01, retry_header="milliseconds")],
    )
    async with (
        running(simulator) as url,
        openai.AsyncOpenAI(base_url=f"{url}/v1", api_key="any", max_retries=1) as client,
    ):
        await client.embeddings.create(model=SMALL, input="a")
        assert [each.status for each in simulator.account.exchanges] == [429, 200]


async def test_azure_client_gets_vectors_of_the_deployment() -> None:
    """Errors are Azure's."""
    simulator = Simulator(Azure(deployments={"mine": SMALL}, keys=["right"]))
    async with running(simulator) as url:
        right = openai.AsyncAzureOpenAI(
            azure_endpoint=url, api_key="right", api_version="2024-10-21", max_retries=0
        )
        wrong = right.with_options(api_key="wrong")
        answer = await right.embeddings.create(model="mine", input="a", dimensions=8)
        assert np.array_equal(floats(answer.data[0].embedding), vector_of(SMALL, "a", 8))
        assert answer.model == SMALL
        with pytest.raises(openai.NotFoundError) as caught:
            await right.embeddings.create(model=SMALL, input="a")
        assert caught.value.code == "DeploymentNotFound"
        with pytest.raises(openai.AuthenticationError):
            await wrong.embeddings.create(model="mine", input="a")
        async with openai.AsyncOpenAI(base_url=f"{url}/openai/v1", api_key="right") as newer:
            found = await newer.embeddings.create(model="mine", input="a", dimensions=8)
        assert found.data == answer.data
        simulator.order(Fault(kind="rate_limited", retry_after=7))
        with pytest.raises(openai.RateLimitError, match="after 7 seconds"):
            await right.embeddings.create(model="mine", input="a")
        await wrong.close()
        await right.close()


async def test_azure_errors_have_azures_shape(post: Post) -> None:
    """Except for errors of the body, which are OpenAI's."""
    simulator = Simulator(Azure(deployments={"mine": SMALL}), limits=Limits(tokens=10))
    async with running(simulator) as url:
        address = f"{url}/openai/deployments/mine/embeddings?api-version=2024-10-21"
        good = await post(address, {"input": "a b c"})
        assert good.headers["x-ratelimit-remaining-tokens"] == "7"
        assert (await post(address, {"input": ""})).json["error"]["type"] == "invalid_request_error"
        for response in (
            await post(address, {"input": "a " * 20}),
            await post(address.partition("?")[0], {"input": "a"}),
            await post(address, {}, method="GET"),
        ):
            assert set(response.json["error"]) == {"code", "message"}
        simulator.order(Fault(kind="quota", calls=(1,)), Fault(kind="error", status=503, calls=(2,)))
        assert (await post(address, {"input": "a"})).json["error"]["code"] == "insufficient_quota"
        assert (await post(address, {"input": "a"})).json["error"]["code"] == "503"


@pytest.mark.parametrize(
    ("status", "kind"),
    [(401, "invalid_request_error"), (403, "invalid_request_error"), (500, "server_error")],
)
async def test_openai_error_fault_has_four_fields(post: Post, status: int, kind: str) -> None:
    async with running(Simulator(OpenAI(), faults=[Fault(kind="error", status=status)])) as url:
        response = await post(f"{url}/v1/embeddings", {"model": SMALL, "input": "a"})
    assert response.status == status
    assert set(response.json["error"]) == {"message", "type", "param", "code"}
    assert response.json["error"]["type"] == kind
