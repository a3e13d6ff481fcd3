"""Validation of a request's input."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowbed.errors import Rejected
from flowbed.services.batches.input_lines import fields_of
from flowbed.services.embedding.inputs import (
    arrays_of,
    most_tokens,
    require_few,
    require_sizes,
    require_within,
    surely_within,
    texts_of,
)


def test_texts_of_string_is_a_list_of_one() -> None:
    assert texts_of("a") == ["a"]
    assert texts_of(["b", "a", "b"]) == ["b", "a", "b"]
    assert arrays_of("a") is None
    assert arrays_of(["a"]) is None


def test_arrays_of_tells_token_arrays_from_texts() -> None:
    assert arrays_of([1, 2]) == [[1, 2]]
    assert arrays_of([[1, 2], [3]]) == [[1, 2], [3]]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("", "empty string"),
        (["a", ""], r"input\[1\] is an empty string"),
        ([], "empty list"),
        (["a"] * 2049, "2,049 items"),
        (["a", 1], "must be a string"),
        (["a", ["b"]], "must be a string"),
    ],
)
def test_texts_of_invalid_input_is_refused(given: Any, message: str) -> None:
    with pytest.raises(Rejected, match=message) as caught:
        texts_of(given)
    assert caught.value.param == "input"


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ([[]], r"input\[0\] is an empty token array"),
        ([[1], []], r"input\[1\] is an empty token array"),
        ([1, "a"], "must be a string"),
        ([[1], ["a"]], "must be a string"),
        ([True, 1], "must be a string"),
        ([[1]] * 2049, "2,049 items"),
    ],
)
def test_arrays_of_invalid_input_is_refused(given: Any, message: str) -> None:
    with pytest.raises(Rejected, match=message):
        arrays_of(given)


def test_require_within_too_many_tokens_is_refused_in_openais_words() -> None:
    require_within(["a " * 8_192], lambda text: len(text.split()))
    with pytest.raises(Rejected, match="requested 8193 tokens") as caught:
        require_within(["a", "a " * 8_193], lambda text: len(text.split()))
    assert (caught.value.inputs, caught.value.code) == ((1,), None)
    with pytest.raises(Rejected, match="Requested 300001 tokens, max 300000") as caught:
        require_within(["a"] * 300_001, lambda _: 1)
    assert caught.value.code == "max_tokens_per_request"
    with pytest.raises(Rejected, match="requested 8193 tokens"):
        require_sizes([1, 8_193])
    with pytest.raises(Rejected, match="Requested 300001 tokens"):
        require_sizes([8_000] * 37 + [4_001])
    assert require_sizes([8_192, 1]) == 8_193


@given(st.lists(st.text(min_size=1, max_size=20), min_size=1, max_size=20))
def test_most_tokens_is_an_upper_bound(texts: list[str]) -> None:
    most = [most_tokens(text) for text in texts]
    assert all(bound >= len(text.encode()) for bound, text in zip(most, texts, strict=True))
    assert surely_within(most)


@pytest.mark.parametrize("most", [[8_193], [8_192] * 37, [1, 8_193]])
def test_surely_within_is_false_for_texts_that_may_be_too_long(most: list[int]) -> None:
    assert not surely_within(most)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ([1] * 8_192 + ["a"], "requested 8193 tokens"),
        ([[1] * 8_192 + ["a"]], "requested 8193 tokens"),
        ([[1] * 8_000] * 37 + [["a"] * 4_001], "Requested 300001 tokens"),
        (["a"] * 2_048 + [1], "2,049 items"),
        ([[1]] * 2_048 + ["a"], "2,049 items"),
    ],
)
def test_require_few_too_long_list_is_refused_unread(given: Any, message: str) -> None:
    with pytest.raises(Rejected, match=message):
        require_few(given)


def test_require_within_certainly_too_long_text_is_not_tokenised() -> None:
    def count(text: str) -> int:
        pytest.fail(f"{len(text)} characters were counted")

    with pytest.raises(Rejected, match=r"input\[0\] has 1,048,577 characters") as caught:
        require_within(["a" * (8_192 * 128 + 1)], count)
    assert caught.value.inputs == (0,)


@pytest.mark.parametrize("value", [b"[],", b"{},", b"1,", b'"a",'])
def test_line_of_millions_of_values_is_refused_unparsed(value: bytes) -> None:
    """In the input of a batch as in a request: parsing it would stop everything else for seconds."""
    with pytest.raises(Rejected, match="too many values"):
        fields_of(b'{"input":[' + value * 1_100_000 + b"1]}")
    assert fields_of(b'{"input":[' + value * 100_000 + b"1]}")


def test_require_within_stops_at_the_limit_of_all() -> None:
    counted = []

    def count(text: str) -> int:
        counted.append(text)
        return 8_000

    with pytest.raises(Rejected, match="max 300000"):
        require_within(["text"] * 2_048, count)
    assert len(counted) == 38
