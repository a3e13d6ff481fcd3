"""Import: rows with their vectors, read from another store, become precomputed rows of a collection."""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Self, TypeVar

from flowbed.errors import Rejected
from flowbed.lanes.claims import renewed
from flowbed.lanes.failures import RunStats
from flowbed.pipeline.ingest import begin_ingest, claim_rows
from flowbed.records.precomputed import PrecomputedRows
from flowbed.telemetry import PROGRESS, STAGE, reached

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Coroutine, Sequence

    import numpy as np
    from numpy.typing import NDArray

    from flowbed.lanes.contexts import IndexContext
    from flowbed.lanes.precomputed_batches import CheckedRows
    from flowbed.pipeline.ingest import Keep
    from flowbed.publish.reading import RowReader
    from flowbed.records import Problem, Space

    Embed = Callable[[Sequence[str]], Awaitable[NDArray[np.float32]]]
    # The number of rows read, and those that were checked.
    Group = tuple[int, tuple[CheckedRows, list[Problem]]]

Item = TypeVar("Item")

# Rows of one group: 13 MB of vectors at 384 dimensions. The ledger swaps them in one transaction.
GROUP = 8_192
# Rows between two commits: each commit reads the ids of the whole index.
COMMIT = 32_768
# Texts that are embedded to see whether the vectors are of the space that was stated, and their median cosine at least.
SAMPLE, ALIKE = 16, 0.99
# Longer texts are left out of the sample where there are others: models cut them off at different places.
SHORT = 600  # characters
NAMED = 100  # refused rows that a result names


@dataclass(kw_only=True)
class Imported:
    """The result of an import, in numbers of rows.

    `unchanged` rows were there already. `refused` counts the rows that could not be stored, and `problems` names some
    of them with reasons. `cosine` is the median similarity of `sampled` vectors with those that the model gives for the
    same texts; None if no sample was taken.
    """

    read: int = 0
    written: int = 0
    unchanged: int = 0
    refused: int = 0
    sampled: int = 0
    cosine: float | None = None
    version: int | None = None
    seconds: float = 0.0
    problems: list[Problem] = field(default_factory=list)


async def import_rows(
    reader: RowReader,
    context: IndexContext,
    *,
    collection: str,
    space: Space,
    embed: Embed | None,
    keep: Keep | None = None,
) -> Imported:
    """Write all rows of a reader into a collection, group by group; nothing is paid for but a sample.

    Safe to repeat, and after a kill: rows that are there already are only compared. `embed` embeds the texts of a
    sample of the first rows, before anything is written; None trusts the space. `keep` keeps the vectors for the texts.

    Raises:
        Rejected: the rows cannot be read, or their vectors are not of the space.
        Misconfigured: the collection lives in another space.
        Transient: the same import may succeed later.
    """
    began = context.monotonic()
    done = Imported()
    reached(STAGE, stage="import", source=collection, total=await reader.count() or 0)
    async with contextlib.aclosing(ahead(_checked(reader, space, embed, done))) as groups:
        stats = await _write(groups, context, done, collection=collection, space=space, keep=keep)
    await _finish(collection, context, stats, done)
    done.seconds = context.monotonic() - began
    return done


async def _write(
    groups: AsyncIterator[Group],
    context: IndexContext,
    done: Imported,
    *,
    collection: str,
    space: Space,
    keep: Keep | None,
) -> RunStats:
    """Write groups of rows: the delta of one while the next goes into the ledger, and commits meanwhile."""
    from flowbed.lanes.write_deltas import commit_pending

    stats, uncommitted = RunStats(), 0
    overview = await begin_ingest(collection, context)
    async with renewed(context), contextlib.AsyncExitStack() as under_way:
        deltas, commits = [await under_way.enter_async_context(_OneAtATime()) for _ in range(2)]
        async for read, rows in groups:
            claimed = await claim_rows(rows, context, collection=collection, space=space, overview=overview)
            await deltas.begin(claimed.write(context, keep))
            uncommitted += read
            if uncommitted >= COMMIT:
                uncommitted = 0
                await commits.begin(commit_pending(collection, context, stats, once=True))
            done.read += read
            done.written += claimed.done.written
            done.unchanged += claimed.done.unchanged
            done.refused += len(claimed.done.refused)
            done.problems += claimed.done.refused[: NAMED - len(done.problems)]
            reached(PROGRESS, stage="import", done=read)
        await deltas.end()
        await commits.end()
    return stats


class _OneAtATime:
    """One piece of work under way beside the rest; its error is raised by the next call."""

    def __init__(self) -> None:
        self._task: asyncio.Future[Any] | None = None

    async def begin(self, work: Coroutine[Any, Any, Any]) -> None:
        """Start some work after the end of the last."""
        try:
            await self.end()
        except BaseException:
            work.close()
            raise
        self._task = asyncio.ensure_future(work)

    async def end(self) -> None:
        """Wait for what is under way."""
        task, self._task = self._task, None
        if task is not None:
            await task

    async def __aenter__(self) -> Self:
        """Start with nothing."""
        return self

    async def __aexit__(self, *_: object) -> None:
        """Let what is under way end: an error of the rest is reported, not its."""
        if self._task is not None:
            await asyncio.gather(self._task, return_exceptions=True)


async def _finish(collection: str, context: IndexContext, stats: RunStats, done: Imported) -> None:
    from flowbed.lanes.write_deltas import commit_pending
    from flowbed.pipeline.run import tidy

    await commit_pending(collection, context, stats)
    done.version = stats.versions.get(collection, done.version)
    done.refused += len(stats.failures)
    done.problems += stats.failures
    if done.version is not None:
        stats.versions[collection] = done.version
        await tidy(context, stats)


async def ahead(items: AsyncIterator[Item]) -> AsyncGenerator[Item, None]:
    """Iterate over items, the next of which is made while one is used."""
    following = asyncio.ensure_future(anext(items, None))
    try:
        while (item := await following) is not None:
            following = asyncio.ensure_future(anext(items, None))
            yield item
    finally:
        following.cancel()
        await asyncio.gather(following, return_exceptions=True)
        if (close := getattr(items, "aclose", None)) is not None:
            await close()


async def _checked(
    reader: RowReader, space: Space, embed: Embed | None, done: Imported
) -> AsyncIterator[Group]:
    """Read and check the rows group by group, the space with the first one; each with its number of rows."""
    from flowbed.lanes.precomputed_batches import check_rows

    checked = embed is None
    async for rows in _groups(reader, space.dimensions):
        # A group without any vector is refused row by row, and says nothing of the model.
        if embed is not None and not checked and has_vectors(rows):
            done.sampled, done.cosine = await check_space(rows, space, embed)
            checked = True
        yield len(rows.ids), await asyncio.to_thread(check_rows, rows, space)


async def _groups(reader: RowReader, dimensions: int) -> AsyncIterator[PrecomputedRows]:
    """Join pages into groups."""
    held: list[PrecomputedRows] = []
    async for page in ahead(reader.pages()):
        if held and len(page.ids) + sum(len(each.ids) for each in held) > GROUP:
            yield _joined(held, dimensions)
            held = []
        held.append(page)
    if held:
        yield _joined(held, dimensions)


def has_vectors(rows: PrecomputedRows) -> bool:
    """Tell whether any row has a vector; readers give NaN in place of one that is missing."""
    import numpy as np

    return not bool(np.isnan(rows.vectors).all())


def _joined(pages: Sequence[PrecomputedRows], dimensions: int) -> PrecomputedRows:
    """Join pages; one without any vector, which cannot tell its dimensions, gets those of the others."""
    import numpy as np

    try:
        parts = [np.asarray(page.vectors, np.float32) for page in pages]
        wide = next((part.shape[1] for part in parts if part.size), dimensions)
        vectors = np.concatenate(
            [part if part.size else np.full((len(part), wide), np.nan, np.float32) for part in parts]
        )
    except (TypeError, ValueError) as error:
        raise Rejected(f"the vectors are not lists of numbers of one length: {error}") from error
    return PrecomputedRows(
        ids=[each for page in pages for each in page.ids],
        vectors=vectors,
        texts=[each for page in pages for each in page.texts or [None] * len(page.ids)],
        metadata=[each for page in pages for each in page.metadata or [None] * len(page.ids)],
    )


async def check_space(rows: PrecomputedRows, space: Space, embed: Embed) -> tuple[int, float]:
    """Embed a sample of the texts of rows, and return its size and its median cosine with the vectors of the rows.

    Raises:
        Rejected: no row has a text, the vectors have other dimensions, or they are not alike.
    """
    import numpy as np

    vectors = np.asarray(rows.vectors, np.float32)
    if vectors.ndim != 2 or vectors.shape[1] != space.dimensions:  # noqa: PLR2004 - rows and dimensions
        raise Rejected(
            f"the vectors have {vectors.shape[-1]} dimensions, but {space.model} gives {space.dimensions}: name the"
            " model that made them with --space"
        )
    texts = list(rows.texts)
    # Others say nothing of the model; they are refused one by one.
    directed = (np.isfinite(vectors) & (vectors != 0).any(axis=1, keepdims=True)).all(axis=1).tolist()
    usable = [
        place
        for place, text in enumerate(texts)
        if isinstance(text, str) and text.strip() and directed[place]
    ]
    usable = [place for place in usable if len(texts[place] or "") <= SHORT] or usable
    if not usable:
        raise Rejected(
            "none of the first rows has a text and a vector, so the model that made the vectors cannot be checked: if"
            f" you know that it was {space.model}, import them with --unchecked"
        )
    chosen = [
        usable[place] for place in np.linspace(0, len(usable) - 1, min(SAMPLE, len(usable))).astype(int)
    ]
    made = await embed([texts[place] or "" for place in chosen])
    there = vectors[chosen].astype(np.float64)
    lengths = np.linalg.norm(there, axis=1) * np.linalg.norm(made, axis=1)
    cosines = np.einsum("ij,ij->i", there, made) / np.where(lengths > 0, lengths, np.inf)
    median = float(np.median(cosines))
    if not median >= ALIKE:
        raise Rejected(
            f"the vectors are not those of {space.model}: the median cosine with what it gives for {len(chosen)} of the"
            f" texts is {median:.3f}, and at least {ALIKE} is needed; name the model that made them with --space"
        )
    return len(chosen), median
