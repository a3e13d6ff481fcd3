"""Extracting vectors from responses: each is its text's, or none is returned."""

from __future__ import annotations

import base64
import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowbed.embedding.providers.parsing import indexed, matrix, message_of, normalised, usage
from flowbed.errors import Misconfigured, Rejected, Transient

NUMBERS = st.floats(-1e6, 1e6, width=32)
ROWS = st.integers(1, 6).flatmap(
    lambda width: st.lists(st.lists(NUMBERS, min_size=width, max_size=width), min_size=1, max_size=6)
)


def nested(name: str, levels: int) -> Any:
    """Nest a message in so many objects."""
    value: Any = "deep"
    for _ in range(levels):
        value = {name: [value]}
    return value


def encoded(row: list[float]) -> str:
    return base64.b64encode(np.array(row, "<f4").tobytes()).decode()


@given(order=st.integers(1, 30).flatmap(lambda count: st.permutations(range(count))))
def test_indexed_any_order_becomes_that_of_the_texts(order: list[int]) -> None:
    data = [{"index": index, "embedding": f"of {index}"} for index in order]
    assert indexed(data, len(order)) == [f"of {index}" for index in range(len(order))]


@given(
    order=st.integers(2, 12).flatmap(lambda count: st.permutations(range(count))), place=st.integers(0, 11)
)
def test_indexed_doubled_index_is_transient(order: list[int], place: int) -> None:
    place %= len(order)
    data = [{"index": index, "embedding": ""} for index in order]
    data[place]["index"] = order[place - 1]
    with pytest.raises(Transient, match="index"):
        indexed(data, len(order))


@pytest.mark.parametrize("order", [[0, 1, 2], [2, 0, 1], [0]])
def test_indexed_index_left_out_is_that_of_the_first_text(order: list[int]) -> None:
    """As a server answers that leaves out fields of value 0."""
    data = [{**({"index": index} if index else {}), "embedding": f"of {index}"} for index in order]
    assert indexed(data, len(order)) == [f"of {index}" for index in range(len(order))]


@pytest.mark.parametrize(
    "indexes", [[None, None], [None, 0], [0, None], [None, 2], [None, None, 1], [None, 1, 1]]
)
def test_indexed_ambiguous_place_is_transient(indexes: list[int | None]) -> None:
    data = [{**({} if index is None else {"index": index}), "embedding": ""} for index in indexes]
    with pytest.raises(Transient, match="index"):
        indexed(data, len(data))


@given(rows=ROWS, kinds=st.lists(st.booleans(), min_size=6, max_size=6))
def test_matrix_base64_and_numbers_are_equal(rows: list[list[float]], kinds: list[bool]) -> None:
    """To the last bit, and mixed in one response."""
    mixed = [encoded(row) if kind else row for row, kind in zip(rows, kinds, strict=False)]
    np.testing.assert_array_equal(matrix(mixed, len(rows[0])), np.array(rows, np.float32))


@pytest.mark.parametrize(
    "embedding",
    [
        None,
        3,
        {},
        "no base64!",
        encoded([1.0])[:-2],
        [[1.0]],
        ["a"],
        [None],
        [1e300],
        [math.inf],
        encoded([math.nan]),
    ],
)
def test_matrix_invalid_vector_is_transient(embedding: Any) -> None:
    with pytest.raises(Transient):
        normalised(matrix([embedding], 1))


def test_matrix_other_dimensions_are_misconfigured_and_mixed_ones_transient() -> None:
    with pytest.raises(Misconfigured, match="dimensions to 2"):
        matrix([[1, 2], [3, 4]], 3)
    with pytest.raises(Transient):
        matrix([[1, 2, 3], [1, 2]], 3)
    with pytest.raises(Transient):
        matrix([[], []], 3)


@pytest.mark.parametrize("scale", [1e-30, 1e-22, 1.0, 1e22, 1e30])
def test_normalised_extreme_length_keeps_the_direction(scale: float) -> None:
    """Even if a squared number overflows or underflows float32."""
    made = normalised(np.array([[3 * scale, 4 * scale], [1, 0]], np.float32))
    assert made == pytest.approx(np.array([[0.6, 0.8], [1, 0]]), rel=1e-5)


@given(rows=ROWS)
def test_normalised_vectors_have_length_one(rows: list[list[float]]) -> None:
    """Zero vectors are refused by position."""
    vectors = np.array(rows, np.float32)
    nowhere = [place for place, row in enumerate(vectors) if not row.any()]
    if nowhere:
        with pytest.raises(Rejected) as refused:
            normalised(vectors)
        assert list(refused.value.inputs) == nowhere
    else:
        np.testing.assert_allclose(np.linalg.norm(normalised(vectors), axis=1), 1, atol=1e-5)


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ({"error": {"message": "a", "type": "t"}}, "a"),
        ({"error": "a"}, "a"),
        ({"object": "error", "message": "a"}, "a"),
        ({"detail": "a"}, "a"),
        ({"detail": [{"loc": ["body"], "msg": "a", "input": "private"}, {"msg": "b"}]}, "a; b"),
        ({"error": None, "detail": "a"}, "a"),
        ("a", "a"),
        (None, ""),
        ({"input": "private"}, ""),
        (7, ""),
        (nested("error", 1_000), ""),
    ],
)
def test_message_of_finds_the_message_in_every_form(body: Any, message: str) -> None:
    assert message_of(body) == message


@pytest.mark.parametrize(
    ("payload", "tokens"),
    [
        ({"usage": {"n": 3}}, 3),
        ({"usage": {"n": 3.0}}, 3),
        ({"usage": {"n": -1}}, None),
        ({"usage": {"n": True}}, None),
        ({"usage": {"n": "3"}}, None),
        ({"usage": {"n": 10**9}}, 10**9),
        ({"usage": {"n": 10**9 + 1}}, None),
        ({"usage": {"n": 2**63}}, None),
        ({"usage": {"n": 10**400}}, None),
        ({"usage": {"n": 1e300}}, None),
        ({"usage": {"n": math.inf}}, None),
        ({"usage": {"n": math.nan}}, None),
        ({"usage": {"n": 3.5}}, None),
        ({"usage": {"n": [3]}}, None),
        ({"usage": None}, None),
        ({}, None),
        ([], None),
    ],
)
def test_usage_invalid_count_is_none(payload: Any, tokens: int | None) -> None:
    """It is not taken for 0, which would be free."""
    assert usage(payload, "usage", "n") == tokens
