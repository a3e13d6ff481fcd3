"""Splitting windows of many lengths into padded batches: each once, in the least time."""

from __future__ import annotations

from itertools import combinations, pairwise

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from flowbed.embedding.local.batching import (
    BATCH,
    SHARE,
    TEXTS,
    TOKENS,
    Window,
    batch_tokens,
    batches_of,
    split_batches,
)

WIDTHS = st.integers(2, 40) | st.integers(100, 2 * TOKENS)


def taken(widths: list[int], found: list[slice]) -> int:
    """Return the cost of batches in tokens."""
    return sum(BATCH + (cut.stop - cut.start) * widths[cut.start] for cut in found)


def is_allowed(widths: list[int], cut: slice) -> bool:
    count = cut.stop - cut.start
    return count == 1 or bool(count <= TEXTS and count * widths[cut.start] <= TOKENS)


def is_considered(widths: list[int], cut: slice) -> bool:
    """Return whether a batch is allowed, and is full or ends where the width changes."""
    ends = cut.stop == len(widths) or widths[cut.stop] < widths[cut.stop - 1]
    return is_allowed(widths, cut) and (ends or not is_allowed(widths, slice(cut.start, cut.stop + 1)))


@given(st.lists(WIDTHS, max_size=300).map(lambda widths: sorted(widths, reverse=True)))
def test_split_batches_covers_every_window_within_the_limit(widths: list[int]) -> None:
    """Only a single window may exceed the limit."""
    found = split_batches(widths)
    assert [place for cut in found for place in range(cut.start, cut.stop)] == list(range(len(widths)))
    assert all(is_allowed(widths, cut) for cut in found)


@given(st.lists(WIDTHS, min_size=1, max_size=9).map(lambda widths: sorted(widths, reverse=True)))
@example([101, 100, 100, 100, 100])  # with 101, 100 as the first batch it would be a token less
def test_split_batches_is_the_cheapest_split_at_changes_of_width(widths: list[int]) -> None:
    """Of those whose batches end where the width changes, or are full."""
    places = range(1, len(widths))
    ways = (
        [slice(*ends) for ends in pairwise((0, *inner, len(widths)))]
        for count in range(len(widths))
        for inner in combinations(places, count)
    )
    least = min(taken(widths, way) for way in ways if all(is_considered(widths, cut) for cut in way))
    assert taken(widths, split_batches(widths)) == least


@given(st.lists(st.integers(2, 40), min_size=1, max_size=300), st.integers(1, 8))
def test_batch_tokens_gives_every_core_a_share(lengths: list[int], cores: int) -> None:
    """Large calls are spread over all cores evenly; small ones stay together."""
    windows = [Window(text=place, ids=[1] * length) for place, length in enumerate(lengths)]
    sizes = [batch.ids.size for batch in batches_of(windows, prefix=[], suffix=[], padding=0, cores=cores)]
    total = sum(lengths)
    if total >= 2 * SHARE * cores:
        assert len(sizes) >= cores
    busy = [0] * cores
    for size in sizes:  # the next batch goes to the first idle thread
        busy[busy.index(min(busy))] += size
    assert max(busy) <= sum(sizes) / cores + batch_tokens(total, cores)


def test_split_batches_mixed_lengths_are_padded_little() -> None:
    """The padding of a hundred texts of 2 to 40 tokens is less than a tenth."""
    widths = sorted((2 + place * 7 % 39 for place in range(100)), reverse=True)
    padded = sum((cut.stop - cut.start) * widths[cut.start] for cut in split_batches(widths))
    assert padded < 1.1 * sum(widths)


@pytest.mark.parametrize("lengths", [[3, 1, 2], [400, 1, 1, 30], [0]])
def test_batches_of_pads_masks_and_locates_windows(lengths: list[int]) -> None:
    windows = [Window(text=place, ids=[place + 10] * length) for place, length in enumerate(lengths)]
    batches = list(batches_of(windows, prefix=[1], suffix=[2], padding=0, cores=1))
    sizes = [batch.ids.size for batch in batches]
    assert sizes == sorted(sizes, reverse=True)
    rows = {
        place: ids[mask.astype(bool)].tolist()
        for batch in batches
        for place, ids, mask in zip(batch.windows, batch.ids, batch.mask, strict=True)
    }
    assert rows == {place: [1, *window.ids, 2] for place, window in enumerate(windows)}
    assert all((batch.ids[batch.mask == 0] == 0).all() for batch in batches)
