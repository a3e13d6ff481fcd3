"""Parsing requests and writing responses."""

from __future__ import annotations

import base64
import contextlib
from typing import Any

import numpy as np
import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from flowbed.errors import Error, Rejected
from flowbed.records.serving import EmbeddingsRequest, EmbeddingsResult
from flowbed.server.http.errors import Unsupported
from flowbed.server.http.wire import BLOCK, parse, write

ASKED = {"model": "m", "input": "text"}
TOKENS = st.lists(st.integers(0, 100_000), min_size=1)
INPUTS = st.one_of(st.text(), st.lists(st.text()), TOKENS, st.lists(TOKENS))
JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=12,
)


def answered(vectors: Any, **facts: Any) -> EmbeddingsResult:
    """Create a result with these vectors."""
    expected = {"model": "m", "space": "s", "provider": "p", "tokens": 3, **facts}
    return EmbeddingsResult(vectors=np.asarray(vectors, np.float32), **expected)


@given(INPUTS, st.none() | st.integers(1, 4096), st.sampled_from(["float", "base64"]))
def test_parse_reads_every_input_and_option(given_input: Any, dimensions: int | None, encoding: Any) -> None:
    """Null counts as absent."""
    body = {
        "model": "m",
        "input": given_input,
        "dimensions": dimensions,
        "encoding_format": encoding,
        "user": None,
        "input_type": None,
    }
    wanted = EmbeddingsRequest(model="m", input=given_input, dimensions=dimensions, encoding=encoding)
    assert parse(orjson.dumps(body), content_type=b"application/json; charset=utf-8") == wanted


def test_parse_reads_input_type_and_crossing() -> None:
    body = orjson.dumps({**ASKED, "input_type": "query", "user": "someone"})
    assert parse(body, crossing=True) == EmbeddingsRequest(
        model="m", input="text", input_type="query", crossing=True
    )


@given(JSON)
def test_parse_any_json_is_read_or_refused(value: Any) -> None:
    with contextlib.suppress(Rejected):
        parse(orjson.dumps(value))


@given(st.dictionaries(st.sampled_from(["input", "model", "encoding_format", "dimensions", "user"]), JSON))
def test_parse_any_value_of_a_field_is_read_or_refused(fields: dict[str, Any]) -> None:
    with contextlib.suppress(Rejected):
        assert parse(orjson.dumps(fields)).model == fields["model"]


@given(st.binary())
def test_parse_bytes_that_are_not_json_are_refused(body: bytes) -> None:
    with pytest.raises(Rejected):
        parse(body)


@pytest.mark.parametrize(
    ("fields", "message", "param"),
    [
        ({"model": "m"}, "'input' is a required property", "input"),
        ({"input": "a"}, "you must provide a model parameter", "model"),
        ({**ASKED, "model": 5}, "you must provide a model parameter", "model"),
        ({**ASKED, "input": 5}, "'$.input' is invalid. Please check the API reference", None),
        ({**ASKED, "input": {"text": "a"}}, "'$.input' is invalid. Please check the API reference", None),
        ({**ASKED, "input": ["a", 5]}, "input[1] is not a string.", None),
        ({**ASKED, "input": [5, "a"]}, "input[1] is not a token.", None),
        ({**ASKED, "input": [True]}, "input[0] is not a string.", None),
        ({**ASKED, "input": [-1]}, "input[0] is not a string.", None),
        ({**ASKED, "input": [1, 2.5]}, "input[1] is not a token.", None),
        ({**ASKED, "input": [[1], [None]]}, "input[1] is not an array of tokens.", None),
        ({**ASKED, "input": [1, True]}, "input[1] is not a token.", None),
        ({**ASKED, "input": [1, 2**32]}, "input[1] is not a token.", None),
        ({**ASKED, "input": [[1], [2, -1]]}, "input[1] is not an array of tokens.", None),
        ({**ASKED, "input": [0] * 8192 + ["a"]}, "however you requested 8193 tokens", None),
        ({**ASKED, "dimensions": "5"}, "Invalid type for 'dimensions'", "dimensions"),
        ({**ASKED, "dimensions": True}, "Invalid type for 'dimensions'", "dimensions"),
        ({**ASKED, "dimensions": 0}, "0 is less than the minimum of 1 - 'dimensions'", "dimensions"),
        (
            {**ASKED, "encoding_format": "hex"},
            "Supported values are: 'float' and 'base64'",
            "encoding_format",
        ),
        ({**ASKED, "encoding_format": ["float"]}, "Supported values are", "encoding_format"),
        ({**ASKED, "input_type": "passage"}, "Supported values are: 'document' and 'query'", "input_type"),
        ({**ASKED, "user": 5}, "Invalid type for 'user'", "user"),
        ({**ASKED, "truncate": True}, "Unrecognized request argument supplied: truncate", "truncate"),
    ],
)
def test_parse_refusal_names_the_field_in_openais_words(
    fields: dict[str, Any], message: str, param: str | None
) -> None:
    with pytest.raises(Rejected) as caught:
        parse(orjson.dumps(fields))
    assert message in str(caught.value)
    assert caught.value.param == param


def test_parse_other_content_types_are_refused() -> None:
    """Bytes without a type are taken for JSON."""
    with pytest.raises(Unsupported, match="application/x-www-form-urlencoded"):
        parse(orjson.dumps(ASKED), content_type=b"application/x-www-form-urlencoded")
    assert parse(orjson.dumps(ASKED)).input == "text"


@given(
    arrays.arrays(
        np.float32, st.tuples(st.integers(1, 5), st.integers(1, 9)), elements=st.floats(-1, 1, width=32)
    )
)
async def test_write_floats_and_base64_give_the_same_numbers(vectors: Any) -> None:
    as_floats = orjson.loads(await write(answered(vectors), "float"))
    as_base64 = orjson.loads(await write(answered(vectors), "base64"))
    for read in (as_floats, as_base64):
        assert set(read) == {"object", "data", "model", "usage"}
        assert (read["object"], read["model"]) == ("list", "m")
        assert read["usage"] == {"prompt_tokens": 3, "total_tokens": 3}
        assert [each["index"] for each in read["data"]] == list(range(len(vectors)))
        assert {each["object"] for each in read["data"]} == {"embedding"}
    floats = np.array([each["embedding"] for each in as_floats["data"]], np.float32)
    decoded = [np.frombuffer(base64.b64decode(each["embedding"]), "<f4") for each in as_base64["data"]]
    np.testing.assert_array_equal(floats, vectors)
    np.testing.assert_array_equal(decoded, vectors)


@pytest.mark.parametrize("encoding", ["float", "base64"])
async def test_write_large_response_has_every_vector_once_in_order(encoding: str) -> None:
    rows = 3 * BLOCK // (1024 * 4) + 1
    vectors = np.repeat(np.arange(rows, dtype=np.float32)[:, None], 1024, axis=1)
    read = orjson.loads(await write(answered(vectors), encoding))["data"]
    first = [
        each["embedding"][0]
        if encoding == "float"
        else np.frombuffer(base64.b64decode(each["embedding"]), "<f4")[0]
        for each in read
    ]
    assert first == list(range(rows))


async def test_write_vectors_of_any_memory_layout() -> None:
    vectors = np.arange(12, dtype=">f4").reshape(4, 3).T
    read = orjson.loads(await write(answered(vectors), "float"))["data"]
    assert [each["embedding"] for each in read] == vectors.tolist()


async def test_write_model_name_is_escaped() -> None:
    read = orjson.loads(await write(answered([[1.0]], model='a"b\\c\n'), "float"))
    assert read["model"] == 'a"b\\c\n'


def test_server_errors_derive_from_flowbeds_errors() -> None:
    assert issubclass(Unsupported, Error)
