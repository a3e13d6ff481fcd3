"""The table of where each id was first seen."""

from __future__ import annotations

import tracemalloc

from flowbed.sources.id_table import IdTable

COUNT = 30_000


def test_first_returns_the_first_place() -> None:
    """Each id keeps its first place, however many others follow."""
    table = IdTable()
    assert [table.first(f"id {number}", number) for number in range(COUNT)] == list(range(COUNT))
    again = [table.first(f"id {number}", COUNT + number) for number in range(0, COUNT, 7)]
    assert again == list(range(0, COUNT, 7))
    assert table.first("", 2**63) == 2**63
    assert table.first("", 1) == 2**63


def test_first_colliding_hashes_are_separate_ids() -> None:
    """Ids whose hashes collide are separate ids."""

    class Crowded(str):
        __slots__ = ()

        def __hash__(self) -> int:
            return 5

    table = IdTable()
    assert [table.first(Crowded(number), number) for number in range(50)] == list(range(50))
    assert [table.first(Crowded(number), 99) for number in range(50)] == list(range(50))


def test_table_uses_few_bytes_per_id() -> None:
    """The memory per id does not depend on its length."""
    tracemalloc.start()
    try:
        table = IdTable()
        for number in range(COUNT):
            table.first(f"{number:0200d}", number)
        held = tracemalloc.get_traced_memory()[0]
    finally:
        tracemalloc.stop()
    assert held < 50 * COUNT
