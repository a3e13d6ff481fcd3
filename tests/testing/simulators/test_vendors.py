"""The simulated Voyage, Cohere and Hugging Face, compared with what is known of these APIs."""

from __future__ import annotations

import base64
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from flowbed.testing.simulators import (
    Cohere,
    Fault,
    HuggingFace,
    Limits,
    Simulator,
    Voyage,
    running,
    vector_of,
)

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from tests.testing.simulators.conftest import Post, Response

EMBED = {
    "voyage": "/v1/embeddings",
    "cohere": "/v2/embed",
    "huggingface": "/hf-inference/models/BAAI/bge-small-en-v1.5/pipeline/feature-extraction",
}
GOOD: dict[str, dict[str, Any]] = {
    "voyage": {"model": "voyage-4", "input": ["a", "b c"], "input_type": "document"},
    "cohere": {"model": "embed-v4.0", "texts": ["a", "b c"], "input_type": "search_document"},
    "huggingface": {"inputs": ["a", "b c"]},
}
MINI = "sentence-transformers/all-MiniLM-L6-v2"
E5 = "intfloat/multilingual-e5-large"
BERT = "google-bert/bert-base-uncased"


def simulated(vendor: str, **how: Any) -> Simulator:
    apis = {"voyage": Voyage, "cohere": Cohere, "huggingface": HuggingFace}
    return Simulator(apis[vendor](keys=["right"]), **how)


@pytest.fixture
async def urls() -> AsyncIterator[dict[str, str]]:
    async with (
        running(simulated("voyage")) as voyage,
        running(simulated("cohere")) as cohere,
        running(simulated("huggingface")) as huggingface,
    ):
        yield {"voyage": voyage, "cohere": cohere, "huggingface": huggingface}


async def ask(post: Post, urls: dict[str, str], vendor: str, **payload: Any) -> Response:
    """Send the vendor's valid request with some fields changed; fields that are ... are left out."""
    fields = {name: value for name, value in {**GOOD[vendor], **payload}.items() if value is not ...}
    return await post(f"{urls[vendor]}{EMBED[vendor]}", fields, key="right")


def same(found: Any, vector: Any) -> bool:
    return np.array_equal(np.float32(found), vector)


async def test_voyage_answer_has_indexes_and_total_tokens(urls: dict[str, str], post: Post) -> None:
    response = await ask(post, urls, "voyage")
    assert response.status == 200
    assert response.json["usage"] == {"total_tokens": 3}
    assert (response.json["object"], response.json["model"]) == ("list", "voyage-4")
    for index, text in enumerate(["a", "b c"]):
        each = response.json["data"][index]
        assert (each["object"], each["index"]) == ("embedding", index)
        assert same(each["embedding"], vector_of("voyage-4", text, 1024, "document"))


@pytest.mark.parametrize(("input_type", "word"), [("query", "query"), (None, ""), (..., "")])
async def test_voyage_input_types_get_different_vectors(
    urls: dict[str, str], post: Post, input_type: Any, word: str
) -> None:
    response = await ask(post, urls, "voyage", input="a", input_type=input_type, output_dimension=256)
    assert same(response.json["data"][0]["embedding"], vector_of("voyage-4", "a", 256, word))


async def test_voyage_writes_base64_and_quantised_vectors(urls: dict[str, str], post: Post) -> None:
    vector = vector_of("voyage-4", "a", 256, "document")

    async def first(**how: str) -> Any:
        response = await ask(post, urls, "voyage", input="a", output_dimension=256, **how)
        return response.json["data"][0]["embedding"]

    assert same(np.frombuffer(base64.b64decode(await first(encoding_format="base64")), "<f4"), vector)
    np.testing.assert_allclose(np.array(await first(output_dtype="int8")) / 127, vector, atol=0.005)
    np.testing.assert_allclose((np.array(await first(output_dtype="uint8")) - 128) / 127, vector, atol=0.005)
    signs = np.unpackbits(np.array(await first(output_dtype="ubinary"), np.uint8))
    assert np.array_equal(signs == 1, vector > 0)
    assert (np.array(await first(output_dtype="binary")) + 128 == np.packbits(vector > 0)).all()


async def test_voyage_long_text_is_truncated_unless_told_not_to(urls: dict[str, str], post: Post) -> None:
    """It bills no more than it embeds."""
    long = "a " * 4100
    response = await ask(post, urls, "voyage", model="voyage-2", input=long)
    assert response.json["usage"] == {"total_tokens": 4000}
    response = await ask(post, urls, "voyage", model="voyage-2", input=["a", long], truncation=False)
    assert response.status == 400
    assert "example at index 1 in your batch has too many tokens" in response.json["detail"]


@pytest.mark.parametrize(
    ("payload", "detail"),
    [
        ({"encoding_format": "float"}, "Value 'float' supplied for argument 'encoding_format'"),
        ({"input_type": "search_query"}, "accepted values are ['query', 'document', None]"),
        ({"output_dimension": 100}, "output_dimension"),
        ({"output_dimension": True}, "output_dimension"),
        ({"model": "voyage-law-2", "output_dimension": 256}, "output_dimension"),
        ({"truncation": "yes"}, "truncation"),
        ({"dimensions": 256}, "'dimensions' is not supported"),
        ({"model": ...}, "Model None is not supported"),
        ({"model": "voyage-9"}, "Model voyage-9 is not supported"),
        ({"input": ...}, "'input' must be"),
        ({"input": [1, 2]}, "'input' must be"),
        ({"input": []}, "cannot contain empty"),
        ({"input": ["a", ""]}, "cannot contain empty"),
        ({"input": ["a"] * 1001}, "batch size limit is 1000"),
        (
            {"model": "voyage-4-large", "input": ["a " * 30_000] * 5},
            "max allowed tokens per submitted batch is 120000",
        ),
    ],
    ids=lambda value: str(value)[:60],
)
async def test_voyage_invalid_request_is_400_with_detail(
    urls: dict[str, str], post: Post, payload: dict[str, Any], detail: str
) -> None:
    response = await ask(post, urls, "voyage", **payload)
    assert response.status == 400
    assert set(response.json) == {"detail"}
    assert detail in response.json["detail"]


async def test_cohere_answer_has_lists_by_data_type_without_index(urls: dict[str, str], post: Post) -> None:
    response = await ask(post, urls, "cohere", embedding_types=["float", "int8"], output_dimension=256)
    assert response.status == 200
    assert set(response.json) == {"id", "embeddings", "texts", "meta", "response_type"}
    assert response.json["texts"] == ["a", "b c"]
    assert response.json["meta"]["billed_units"] == {"input_tokens": 3}
    assert response.json["response_type"] == "embeddings_by_type"
    for index, text in enumerate(["a", "b c"]):
        vector = vector_of("embed-v4.0", text, 256, "search_document")
        assert same(response.json["embeddings"]["float"][index], vector)
        np.testing.assert_allclose(
            np.array(response.json["embeddings"]["int8"][index]) / 127, vector, atol=0.005
        )


async def test_cohere_input_types_get_different_vectors(urls: dict[str, str], post: Post) -> None:
    response = await ask(post, urls, "cohere", input_type="search_query")
    assert same(response.json["embeddings"]["float"][0], vector_of("embed-v4.0", "a", 1536, "search_query"))


async def test_cohere_long_text_is_truncated_unless_told_not_to(urls: dict[str, str], post: Post) -> None:
    """It bills no more than it embeds."""
    long = {"model": "embed-english-v3.0", "texts": ["a " * 600]}
    response = await ask(post, urls, "cohere", **long)
    assert response.json["meta"]["billed_units"] == {"input_tokens": 512}
    response = await ask(post, urls, "cohere", **long, truncate="NONE")
    assert response.status == 400
    assert "too many tokens" in response.json["message"]
    response = await ask(post, urls, "cohere", texts=["a " * 600], max_tokens=100)
    assert response.json["meta"]["billed_units"] == {"input_tokens": 100}


@pytest.mark.parametrize(
    ("payload", "status", "message"),
    [
        ({"texts": ["a"] * 97}, 400, "total number of texts must be at most 96 - received 97"),
        ({"texts": ...}, 400, "texts must be a list"),
        ({"texts": "a"}, 400, "texts must be a list"),
        ({"texts": ["a", ""]}, 400, "non-empty"),
        ({"input_type": ...}, 400, "valid input_type must be provided"),
        ({"input_type": "document"}, 400, "valid input_type must be provided"),
        ({"model": ...}, 400, "model is required"),
        ({"model": "embed-v9"}, 404, "model 'embed-v9' not found"),
        ({"embedding_types": ["base64"]}, 400, "embedding_types"),
        ({"embedding_types": []}, 400, "embedding_types"),
        ({"output_dimension": 100}, 400, "must be one of [256, 512, 1024, 1536]"),
        ({"model": "embed-english-v3.0", "output_dimension": 256}, 400, "not supported by model"),
        ({"truncate": "LEFT"}, 400, "truncate"),
        ({"max_tokens": 0}, 400, "max_tokens"),
        ({"input": ["a"]}, 400, "'input' is not a valid field"),
    ],
    ids=lambda value: str(value)[:60],
)
async def test_cohere_invalid_request_has_a_message(
    urls: dict[str, str], post: Post, payload: dict[str, Any], status: int, message: str
) -> None:
    response = await ask(post, urls, "cohere", **payload)
    assert response.status == status
    assert set(response.json) == {"message"}
    assert message in response.json["message"]


async def test_huggingface_answer_is_bare_lists(urls: dict[str, str], post: Post) -> None:
    """A single text gets its vector without an outer list."""
    many = await ask(post, urls, "huggingface")
    one = await ask(post, urls, "huggingface", inputs="b c")
    for index, text in enumerate(["a", "b c"]):
        assert same(many.json[index], vector_of("BAAI/bge-small-en-v1.5", text, 384))
    assert one.json == many.json[1]


async def test_huggingface_without_normalize_changes_only_the_length(
    urls: dict[str, str], post: Post
) -> None:
    response = await ask(post, urls, "huggingface", inputs="a", normalize=False)
    length = float(np.linalg.norm(response.json))
    assert length > 1.5
    np.testing.assert_allclose(
        np.array(response.json) / length, vector_of("BAAI/bge-small-en-v1.5", "a", 384), atol=1e-6
    )


async def test_huggingface_prompts_get_different_vectors(urls: dict[str, str], post: Post) -> None:
    """An unknown prompt is refused."""
    address = f"{urls['huggingface']}/hf-inference/models/{E5}/pipeline/feature-extraction"
    response = await post(address, {"inputs": "a", "prompt_name": "query"}, key="right")
    assert same(response.json, vector_of(E5, "a", 1024, "query"))
    response = await post(address, {"inputs": "a", "prompt_name": "document"}, key="right")
    assert response.status == 422


async def test_huggingface_token_vectors_have_the_texts_vector_as_mean(
    urls: dict[str, str], post: Post
) -> None:
    address = f"{urls['huggingface']}/hf-inference/models/{BERT}/pipeline/feature-extraction"
    texts = ["one", "one two", "one two three", "one two three four five"]
    response = await post(address, {"inputs": texts}, key="right")
    for text, rows in zip(texts, response.json, strict=True):
        vector = vector_of(BERT, text, 768)
        assert np.shape(rows) == (len(text.split()), 768)
        np.testing.assert_allclose(np.mean(rows, axis=0), vector, atol=1e-6)
        if len(rows) > 1:
            assert all(abs(np.array(row) - vector).max() > 0.01 for row in rows)
    one = await post(address, {"inputs": "one two"}, key="right")
    assert one.json == response.json[1]


@pytest.mark.parametrize(
    ("payload", "status", "error"),
    [
        ({"inputs": ["a"] * 33}, 413, "batch size 33 > maximum allowed batch size 32"),
        ({"inputs": "a " * 600}, 413, "`inputs` must have less than 512 tokens"),
        ({"inputs": ...}, 422, "cannot be empty"),
        ({"inputs": []}, 422, "cannot be empty"),
        ({"inputs": ["a", ""]}, 422, "cannot be empty"),
        ({"inputs": [[1, 2]]}, 422, "cannot be empty"),
        ({"input": "a"}, 422, "unknown field `input`"),
    ],
    ids=lambda value: str(value)[:60],
)
async def test_huggingface_invalid_request_has_an_error(
    urls: dict[str, str], post: Post, payload: dict[str, Any], status: int, error: str
) -> None:
    response = await ask(post, urls, "huggingface", **payload)
    assert response.status == status
    assert error in response.json["error"]


async def test_huggingface_truncate_embeds_a_long_text(urls: dict[str, str], post: Post) -> None:
    response = await ask(post, urls, "huggingface", inputs="a " * 600, truncate=True)
    assert response.status == 200


@pytest.mark.parametrize("vendor", EMBED)
async def test_vendor_wrong_key_path_method_or_json_is_refused(
    urls: dict[str, str], post: Post, vendor: str
) -> None:
    shape = {"voyage": "detail", "cohere": "message", "huggingface": "error"}[vendor]
    address = f"{urls[vendor]}{EMBED[vendor]}"
    answers = [
        await post(address, GOOD[vendor], key=""),
        await post(address, GOOD[vendor], key="wrong"),
        await post(f"{urls[vendor]}/elsewhere", GOOD[vendor], key="right"),
        await post(address, GOOD[vendor], key="right", method="PUT"),
        await post(address, b"{", key="right"),
    ]
    no_json = 400 if vendor == "cohere" else 422
    assert [response.status for response in answers] == [401, 401, 404, 405, no_json]
    assert all(set(response.json) == {shape} for response in answers)


@pytest.mark.parametrize("vendor", EMBED)
async def test_vendor_faults_have_the_vendors_status_and_shape(post: Post, vendor: str) -> None:
    simulator = simulated(vendor)
    async with running(simulator) as url:
        address, statuses, shapes = f"{url}{EMBED[vendor]}", [], set[str]()
        for fault in (
            Fault(kind="rate_limited", retry_after=3),
            Fault(kind="quota"),
            Fault(kind="error", status=401),
            Fault(kind="error", status=500),
            Fault(kind="error", status=503, retry_after=12.5),
        ):
            simulator.order(fault)
            response = await post(address, GOOD[vendor], key="right")
            statuses.append(response.status)
            shapes |= set(response.json)
            assert response.headers.get("Retry-After") == {3: "3", 12.5: "13"}.get(fault.retry_after or 0)
    if vendor == "huggingface":
        assert response.json["estimated_time"] == 12.5
    assert statuses == [429, 429 if vendor == "voyage" else 402, 401, 500, 503]
    loading = {"error", "estimated_time"}
    assert shapes == {"voyage": {"detail"}, "cohere": {"message"}, "huggingface": loading}[vendor]


@pytest.mark.parametrize(
    ("vendor", "limits", "word"),
    [
        ("voyage", Limits(tokens=5), "5 tokens per minute"),
        ("cohere", Limits(inputs=3), "3 inputs per minute"),
        ("huggingface", Limits(requests=1), "5 minutes"),
    ],
)
async def test_vendor_limit_exceeded_is_429_in_its_words(
    post: Post, vendor: str, limits: Limits, word: str
) -> None:
    """Only Hugging Face reports what is left in headers."""
    async with running(simulated(vendor, limits=limits)) as url:
        good = await post(f"{url}{EMBED[vendor]}", GOOD[vendor], key="right")
        bad = await post(f"{url}{EMBED[vendor]}", GOOD[vendor], key="right")
    assert (good.status, bad.status) == (200, 429)
    assert word in str(bad.json)
    assert 0 < int(bad.headers["Retry-After"]) <= 60
    if vendor == "huggingface":
        assert good.headers["RateLimit"] == '"api";r=0;t=60'
        assert good.headers["RateLimit-Policy"] == '"fixed window";"api";q=5;w=300'
