"""Numbers of things in messages."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest

from flowbed.embedding.providers.parsing import normalised, positional
from flowbed.embedding.unicode import require_unicode
from flowbed.errors import Error
from flowbed.records.values import count

if TYPE_CHECKING:
    from collections.abc import Callable


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


@pytest.mark.parametrize(
    ("refused", "said"),
    [
        (lambda: require_unicode(["\ud800"]), "lone surrogates in 1 text,"),
        (lambda: positional([[1.0]], 2), "1 vector for 2 texts"),
        (lambda: positional([], 1), "0 vectors for 1 text$"),
        (lambda: normalised(np.zeros((1, 2), np.float32)), "only zeros for 1 text$"),
    ],
)
def test_message_about_one_thing_uses_the_singular(refused: Callable[[], object], said: str) -> None:
    with pytest.raises(Error, match=said):
        refused()
