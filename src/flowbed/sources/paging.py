"""What a source found, gathered into pages, each made in a thread."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from flowbed.records import Entry, Page, Problem

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterable, Iterator

# Enough for a page to be worth a transaction, few enough for the first to come at once.
PAGE_ENTRIES = 1_000

# Entries that hold their text fill a page sooner, so that long records do not fill the memory.
PAGE_BYTES = 8 * 2**20


def paged(found: Iterable[tuple[Entry | Problem, int]]) -> Iterator[Page]:
    """Gather what was found, each with the bytes it holds in memory, into pages of which none is the last."""
    entries: list[Entry] = []
    problems: list[Problem] = []
    held = 0
    for item, size in found:
        if isinstance(item, Entry):
            entries.append(item)
        else:
            problems.append(item)
        held += size
        if len(entries) + len(problems) >= PAGE_ENTRIES or held >= PAGE_BYTES:
            yield Page(entries=entries, problems=problems)
            entries, problems, held = [], [], 0
    if entries or problems:
        yield Page(entries=entries, problems=problems)


async def in_threads(pages: Iterator[Page]) -> AsyncIterator[Page]:
    """Hand pages over one by one, each made in a thread, since reading files blocks."""
    while (page := await asyncio.to_thread(next, pages, None)) is not None:
        yield page
