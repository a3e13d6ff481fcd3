"""When two indexes are the same, and how differences are described."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from flowbed.testing.index import Contents, Row, assert_same, differences

ROW = Row(text_hash="00", document="text", metadata={"tag": 1}, vector=np.array([0.6, 0.8], np.float32))
INDEX = Contents(rows={"docs": {"a": ROW, "b": ROW}})


def test_same_index_has_no_differences() -> None:
    """Vectors that differ by less than 1e-5 are equal."""
    near = replace(ROW, vector=ROW.vector + np.float32(5e-6))
    assert differences(INDEX, Contents(rows={"docs": {"a": near, "b": ROW}})) == []
    assert_same(INDEX, INDEX)


@pytest.mark.parametrize(
    ("other", "said"),
    [
        (Contents(rows={"docs": {"a": ROW}}), "docs: b is only in the first"),
        (Contents(rows={"docs": {"a": ROW, "b": ROW, "c": ROW}}), "docs: c is only in the second"),
        (Contents(rows={"docs": INDEX.rows["docs"], "more": {"a": ROW}}), "more: a is only in the second"),
        (
            Contents(rows={"docs": {"a": ROW, "b": replace(ROW, text_hash="01")}}),
            "docs: b has another text_hash",
        ),
        (Contents(rows={"docs": {"a": ROW, "b": replace(ROW, document="")}}), "docs: b has another document"),
        (
            Contents(rows={"docs": {"a": ROW, "b": replace(ROW, metadata={"tag": 2})}}),
            "docs: b has another metadata: {'tag': 1} and {'tag': 2}",
        ),
        (
            Contents(rows={"docs": {"a": ROW, "b": replace(ROW, vector=ROW.vector + np.float32(1e-4))}}),
            "docs: b has another vector",
        ),
        (Contents(rows=INDEX.rows, doubled=(("docs", "a"),)), "docs: a has two rows"),
    ],
)
def test_different_index_names_collection_id_and_field(other: Contents, said: str) -> None:
    assert differences(INDEX, other) == [said]
    with pytest.raises(AssertionError):
        assert_same(INDEX, other)


def test_many_differences_are_summarised() -> None:
    many = Contents(rows={"docs": {str(number): ROW for number in range(100)}})
    said = differences(many, Contents(rows={}))
    assert len(said) == 21
    assert said[-1] == "and 80 more"
