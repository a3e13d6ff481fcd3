"""Collect what a source finds into pages, each in a thread."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from flowbed.records import Entry, Page, Problem

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterable, Iterator

# Enough for a page to be worth a transaction, few enough for the first to come quickly.
PAGE_ENTRIES = 1_000

# Long records fill a page sooner, so that they do not fill the memory.
PAGE_BYTES = 8 * 2**20


def in_pages(found: Iterable[tuple[Entry | Problem, int]]) -> Iterator[Page]:
    """Collect entries, each with its size in memory, into pages, none of them marked as the last."""
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
    """Yield pages, each created in a thread, since reading files blocks."""
    while (page := await asyncio.to_thread(next, pages, None)) is not None:
        yield page
