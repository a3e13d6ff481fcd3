"""Numbers of things in messages."""

from __future__ import annotations

import pytest

from flowbed.records.values import count


@pytest.mark.parametrize(
    ("number", "noun", "said"),
    [
        (0, "row", "0 rows"),
        (1, "row", "1 row"),
        (1_234, "whole document", "1,234 whole documents"),
        (1, "entry", "1 entry"),
        (2, "entry", "2 entries"),
        (2, "vector index", "2 vector indexes"),
    ],
)
def test_count_noun_agrees_with_its_number(number: int, noun: str, said: str) -> None:
    assert count(number, noun) == said
