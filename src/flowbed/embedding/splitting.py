"""Splits one call into requests that a provider accepts, and joins their answers: all of them or none. No I/O."""

from __future__ import annotations

import asyncio
from itertools import chain
from typing import TYPE_CHECKING

from flowbed.errors import Error, Rejected
from flowbed.records import Embedded

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

# Requests of one call in flight at once: if one fails, the cost of the others is lost.
AT_ONCE = 8


def split(sizes: Sequence[int], *, items: int, tokens: int) -> list[slice]:
    """Split texts of these sizes, in order, into parts of at most `items` texts and `tokens` tokens.

    A text larger than `tokens` is a part by itself: the provider decides about it.
    """
    parts: list[slice] = []
    start = used = 0
    for at, size in enumerate(sizes):
        if at > start and (at - start == items or used + size > tokens):
            parts.append(slice(start, at))
            start, used = at, 0
        used += size
    if sizes:
        parts.append(slice(start, len(sizes)))
    return parts


def halves(count: int) -> list[slice]:
    """Split two or more texts into two parts."""
    return [slice(0, count // 2), slice(count // 2, count)]


async def call_in_parts(parts: Sequence[slice], ask: Callable[[slice], Awaitable[Embedded]]) -> Embedded:
    """Call `ask` for each part, a few at a time, and join the answers in the order of the texts.

    The first failure cancels the others. Positions that `ask` returns or raises are within its part.

    Raises:
        Rejected: `inputs` are positions in the whole call.
        Transient, Misconfigured: as `ask` does.
    """
    import numpy as np

    answers: dict[int, Embedded] = {}
    waiting = iter(parts)

    async def work() -> None:
        # A worker that fails takes no further part, so that nothing is sent in vain.
        for part in waiting:
            try:
                answers[part.start] = await ask(part)
            except Rejected as error:
                inputs = [part.start + place for place in error.inputs]
                raise Rejected(str(error), inputs=inputs, param=error.param, code=error.code) from error

    try:
        async with asyncio.TaskGroup() as group:
            for _ in range(min(AT_ONCE, len(parts))):
                group.create_task(work())
    except ExceptionGroup as several:
        # One of several failures is enough; the others were cancelled or say the same.
        first = several.exceptions[0]
        if isinstance(first, Error):
            first.perhaps_billed = True  # for other parts, which were answered or in flight
        raise first from several
    ordered = [answers[part.start] for part in parts]
    return Embedded(
        vectors=np.concatenate([answer.vectors for answer in ordered]),
        tokens=sum(answer.tokens for answer in ordered),
        counts=tuple(chain.from_iterable(answer.counts for answer in ordered))
        if all(answer.counts for answer in ordered)
        else (),
        truncated=tuple(
            part.start + place
            for part, answer in zip(parts, ordered, strict=True)
            for place in answer.truncated
        ),
    )
