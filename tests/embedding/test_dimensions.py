"""Vectors of other dimensions: another space, only where that is meaningful."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowbed.embedding.dimensions import POLICIES, Policy, is_padded, resize, resized_space
from flowbed.errors import Rejected
from flowbed.records import Space
from flowbed.testing.embedder import seeded

SPACE = Space(model="m", dimensions=8, pooling="mean")


@given(
    asked=st.integers(-1, 20),
    policy=st.sampled_from(POLICIES),
    matryoshka=st.booleans(),
    rows=st.integers(0, 3),
)
def test_resized_space_follows_the_policy_or_refuses(
    asked: int,
    policy: Policy,
    matryoshka: bool,
    rows: int,
) -> None:
    """Vectors have the space's dimensions and length 1, and another space only if they were changed."""
    try:
        space = resized_space(SPACE, asked, policy, matryoshka=matryoshka)
    except Rejected as error:
        refused = error
    else:
        native = seeded([f"{row}" for row in range(rows)], 8)
        vectors = resize(native, space.dimensions, normalized=True)
        assert vectors.shape == (rows, space.dimensions)
        assert vectors.dtype == np.float32
        np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1.0, atol=1e-6)
        assert space.dimensions == asked or policy == "ignore"
        assert (space == SPACE) == (vectors.shape == native.shape)
        assert is_padded(space) == (asked > 8 and policy == "pad")
        return
    assert refused.param == "dimensions"
    assert asked != 8
    assert policy != "ignore"
    assert not (policy == "pad" and asked > 8)
    assert not (policy == "reduce" and matryoshka and 0 < asked < 8)


def test_resize_reduced_vector_keeps_its_first_numbers_in_proportion() -> None:
    native = seeded(["a"], 8)
    cut = resize(native, 3, normalized=True)
    np.testing.assert_allclose(cut[0] * np.linalg.norm(native[0, :3]), native[0, :3], atol=1e-7)
    np.testing.assert_array_equal(resize(native, 3, normalized=False), native[:, :3])


def test_resize_vector_without_direction_stays_zero() -> None:
    native = np.zeros((1, 8), dtype=np.float32)
    native[0, 7] = 1
    np.testing.assert_array_equal(resize(native, 3, normalized=True), np.zeros((1, 3), dtype=np.float32))


@pytest.mark.parametrize(
    ("dimensions", "policy", "matryoshka", "advice"),
    [
        (4, "error", True, "leave `dimensions` out"),
        (4, "reduce", False, "not trained to be shortened"),
        (9, "reduce", True, "at most 8"),
        (4, "pad", True, "at least 8"),
    ],
)
def test_resized_space_refusal_says_what_to_request(
    dimensions: int,
    policy: Policy,
    matryoshka: bool,
    advice: str,
) -> None:
    with pytest.raises(Rejected, match=advice):
        resized_space(SPACE, dimensions, policy, matryoshka=matryoshka)
