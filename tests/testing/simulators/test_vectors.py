"""The vectors of simulators."""

from __future__ import annotations

import hashlib

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from flowbed.testing.simulators import vector_of, vectors_of

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=30)


@given(TEXT, st.integers(1, 64), st.integers(1, 64))
def test_vector_of_fewer_dimensions_is_a_scaled_prefix(text: str, few: int, more: int) -> None:
    few, more = sorted((few, more))
    beginning = vector_of("m", text, more)[:few].astype(np.float64)
    np.testing.assert_allclose(vector_of("m", text, few), beginning / np.linalg.norm(beginning), atol=1e-6)


@given(st.lists(TEXT, max_size=6), st.integers(1, 32), st.sampled_from(["", "query"]))
def test_vectors_of_many_texts_equal_those_of_each_alone(
    texts: list[str], dimensions: int, input_type: str
) -> None:
    """Their length is 1."""
    together = vectors_of("m", texts, dimensions, input_type)
    assert together.shape == (len(texts), dimensions)
    assert together.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(together, axis=1), 1.0, atol=1e-5)
    for text, vector in zip(texts, together, strict=True):
        assert np.array_equal(vector, vector_of("m", text, dimensions, input_type))


def test_vectors_of_different_texts_models_and_types_are_unrelated() -> None:
    vectors = [
        vector_of(model, text, 256, input_type)
        for model in ("one", "other")
        for input_type in ("", "query", "document")
        for text in ("", "a", "b", "a ", "query\na", "a" * 1000)
    ]
    likeness = np.array(vectors) @ np.array(vectors).T - np.eye(len(vectors))
    assert np.abs(likeness).max() < 0.4


def test_vectors_are_pinned_byte_for_byte() -> None:
    found = vectors_of("m", ["one", "two", "ünïcödé"], 64, "query")
    digest = hashlib.sha256(found.astype("<f4").tobytes()).hexdigest()[:12]
    assert digest == "612df013d1e9"
