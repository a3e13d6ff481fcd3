"""How texts are cut into requests, and in which order they are sent."""

from __future__ import annotations

from itertools import accumulate, pairwise

import pytest

from flowbed.lanes.requests import SMALLEST, Pending, cut


@pytest.mark.parametrize("texts", [0, 1, 63, 64, 65, 500, 4_096, 16_384])
@pytest.mark.parametrize("items", [1, 4, 100, 2_048])
@pytest.mark.parametrize("concurrency", [1, 3, 10, 200])
def test_cut_every_text_is_in_one_request(texts: int, items: int, concurrency: int) -> None:
    whole = [slice(start, min(start + items, texts)) for start in range(0, texts, items)]
    found = cut(whole, concurrency=concurrency)
    assert sorted(place for part in found for place in range(part.start, part.stop)) == [*range(texts)]
    assert all(0 < part.stop - part.start <= items for part in found)


def test_cut_few_texts_are_one_request() -> None:
    assert cut([slice(0, SMALLEST)], concurrency=10) == [slice(0, SMALLEST)]


@pytest.mark.parametrize("concurrency", [1, 10])
def test_cut_many_texts_make_a_bounded_number_of_requests(concurrency: int) -> None:
    """So many that a count moves often, and so few that they cost little more than the largest would."""
    found = cut([slice(0, 2_048), slice(2_048, 4_096), slice(4_096, 5_000)], concurrency=concurrency)
    assert 64 <= len(found) <= 80
    assert max(part.stop - part.start for part in found) == 79


def test_cut_first_requests_grow_and_have_texts_of_all_lengths() -> None:
    found = cut([slice(0, 5_000)], concurrency=10)
    sizes = [part.stop - part.start for part in found[:10]]
    assert sizes[0] < 15
    assert sizes[-1] == 79
    assert all(before < after for before, after in pairwise(sizes))
    # The texts are sorted by length: those answered first stand for all of them.
    tenth = [part for part, sent in zip(found, accumulate(sizes), strict=False) if sent <= 450]
    assert 0.3 < sum(part.start for part in tenth) / len(tenth) / 5_000 < 0.7


def test_cut_rate_limit_known_makes_at_most_one_minute_of_requests() -> None:
    assert len(cut([slice(0, 900)], concurrency=1, per_minute=3)) == 3
    assert len(cut([slice(0, 900)], concurrency=1, per_minute=2_000)) > 10


def test_pending_limited_sends_the_rest_of_a_part_at_once() -> None:
    parts = [slice(0, 2_048), slice(2_048, 3_000)]
    pending = Pending(parts, cut(parts, concurrency=4))
    (first,) = pending.take(limited=False)
    rest = pending.take(limited=True)
    other = pending.take(limited=True)
    assert pending.take(limited=True) == []
    assert len(pending) == 0
    places = sorted(place for piece in (first, *rest, *other) for place in range(piece.start, piece.stop))
    assert places == [*range(3_000)]
    for taken in (rest, other):
        assert len({piece.start < 2_048 for piece in taken}) == 1, "a request of two parts may be too large"
