"""The best place to cut: what is preferred, and how much is looked at to find it."""

from __future__ import annotations

from itertools import accumulate
from typing import TYPE_CHECKING

from hypothesis import given
from hypothesis import strategies as st

from flowbed.chunking.best_cuts import BestCuts

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

LINE = 50
BLOCKS = st.lists(
    st.tuples(st.sampled_from([1, 2, 10, 40, 50, 60]), st.integers(0, 3), st.integers(0, 4)),
    min_size=2,
    max_size=60,
)


def preferred(
    first: int, last: int, ranks: Sequence[int], hashes: Sequence[int], before: Sequence[int], least: int
) -> int:
    """Look at every block between two."""
    middle = (first + last) // 2

    def preference(block: int) -> tuple[bool, int, int, int, int]:
        length = min(before[block] - before[first], before[last] - before[block], least)
        return ranks[block] < LINE, length, -ranks[block], hashes[block], -abs(block - middle)

    return max(range(first + 1, last), key=preference)


@given(BLOCKS, st.integers(1, 12), st.data())
def test_best_cut_is_the_one_that_looking_at_all_blocks_finds(
    blocks: list[tuple[int, int, int]], least: int, data: st.DataObject
) -> None:
    """Whatever ranks, hashes and tokens the blocks have, also none: the same block is chosen as by looking at all."""
    ranks, hashes, tokens = zip(*blocks, strict=True)
    before = [0, *accumulate(tokens)]
    first = data.draw(st.integers(0, len(blocks) - 2))
    last = data.draw(st.integers(first + 2, len(blocks)))
    found = BestCuts(ranks, hashes, before, line=LINE, least=least).best(first, last)
    assert found == preferred(first, last, ranks, hashes, before, least)


class Looked(list[int]):
    """A list that counts how often its items are looked at."""

    looked = 0

    def __getitem__(self, place: int) -> int:  # type: ignore[override]
        self.looked += 1
        return super().__getitem__(place)


def test_best_cut_of_blocks_in_falling_order_looks_at_few() -> None:
    """Blocks whose hashes fall, each of which is cut off by itself, do not take the square of their number."""
    looked = []
    for size in (2_000, 20_000):
        before = Looked(range(0, 2 * size + 1, 2))
        cutting = BestCuts([LINE] * size, range(size, 0, -1), before, line=LINE, least=4)
        before.looked = 0
        for first in ends(size):
            assert cutting.best(first, size) == first + 2
        looked.append(before.looked)
    assert looked[1] < 20 * looked[0]


def ends(size: int) -> Iterator[int]:
    """Yield where each next stretch begins, as long as both sides can be long enough."""
    return iter(range(0, size - 4, 2))
