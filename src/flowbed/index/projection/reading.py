"""Projects the newest version of a collection, or a sample of it."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np
import orjson

from flowbed.errors import NotFound, Rejected
from flowbed.index.projection import Projection
from flowbed.index.projection.labels import names_of, place_of, times_of
from flowbed.index.projection.plane import Axes, fit, groups, inside, nearest, scaled
from flowbed.index.search.filters import MOST_VALUES
from flowbed.index.search.rows import BLOCK
from flowbed.records import IndexedText

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from flowbed.index.active_space import Live
    from flowbed.index.search.reader import IndexReader
    from flowbed.index.search.rows import Selection

# Points of a map: more are no longer told apart on a screen.
MOST = 100_000
# Rows that axes and groups are found with, and texts that name the groups: a sample finds the same.
FITTED, TOLD = 4_096, 1_500
MOST_SOURCES = 32


class _Placed(NamedTuple):
    """What is known of some points: positions along all axes, source, and metadata that may have a time."""

    positions: NDArray[np.float32]
    metadata: Sequence[dict[str, Any]]


async def project(live: Live, reader: IndexReader, *, most: int = MOST) -> Projection:
    """Project the rows of a collection, or `most` of them at equal distances in the order of their ids.

    Raises:
        NotFound: the collection has no rows.
    """
    every = await reader.rows.select(live)
    if every is None or not len(every):
        raise NotFound(f"collection {live.collection} has no rows to draw; fill it with `flowbed run`")
    chosen = replace(every, row_ids=_sample(every.row_ids, most))
    axes = await asyncio.to_thread(fit, await _vectors(chosen, FITTED))
    placed = [await _placed(chosen, first, axes) for first in range(0, len(chosen), BLOCK)]
    texts = replace(chosen, row_ids=_sample(chosen.row_ids, TOLD))
    told = [
        text for first in range(0, len(texts), BLOCK) for text in await texts.strings("document", first=first)
    ]
    places = _sample(np.arange(len(chosen)), TOLD)
    return await asyncio.to_thread(
        _projected, live, len(every), chosen, axes, placed, [text or "" for text in told], places
    )


def _projected(
    live: Live,
    rows: int,
    chosen: Selection,
    axes: Axes,
    placed: Sequence[_Placed],
    told: Sequence[str],
    places: NDArray[Any],
) -> Projection:
    positions = np.concatenate([each.positions for each in placed])
    metadata = [row for each in placed for row in each.metadata]
    centres = groups(_sample(positions, FITTED))
    topic = nearest(positions, centres)
    names = names_of(told, topic[places].tolist(), len(centres))
    source, sources = place_of([str(row.get("source", "")) or "none" for row in metadata], MOST_SOURCES)
    time, times = times_of(metadata)
    plane = positions[:, :2]
    if plane.shape[1] < 2:  # noqa: PLR2004 - a plane has two axes, and a space of one dimension has one
        plane = np.column_stack([plane, np.zeros(len(plane), np.float32)])
    shares = [*axes.shares.tolist(), 0.0][:2]
    return Projection(
        collection=live.collection,
        version=chosen.dataset.version(),
        rows=rows,
        points=scaled(plane),
        source=source,
        sources=sources,
        topic=topic,
        topics=names,
        time=time,
        times=times,
        explained=(shares[0], shares[1]),
        selection=chosen,
    )


async def texts_at(projection: Projection, points: Sequence[int]) -> list[IndexedText]:
    """Read the rows of some points.

    Raises:
        NotFound: a point is not one of the projection's.
    """
    if any(not 0 <= point < len(projection.selection) for point in points):
        raise NotFound(
            f"the map of {projection.collection} has {len(projection.selection):,} points, from 0 on"
        )
    rows = projection.selection.row_ids[np.asarray(points, np.int64)]
    selection = replace(projection.selection, row_ids=rows)
    found: list[IndexedText] = []
    for first in range(0, len(rows), BLOCK):
        names = await selection.strings("id", first=first)
        documents = await selection.strings("document", first=first)
        metadata = await selection.strings("metadata", first=first)
        found += [
            IndexedText(
                id=name,
                document=document or "",
                metadata=orjson.loads(known) if known else {},
                collection=projection.collection,
            )
            for name, document, known in zip(names, documents, metadata, strict=True)
        ]
    return found


async def ids_inside(
    projection: Projection,
    path: Sequence[Sequence[float]],
    *,
    by: Literal["topic", "source"],
    without: Sequence[int],
) -> list[str]:
    """Return the ids of the points inside a path of corners (x, y), except points of the groups `without`.

    Raises:
        Rejected: they are more than a filter takes.
    """
    own = projection.topic if by == "topic" else projection.source
    mask = await asyncio.to_thread(inside, projection.points, np.asarray(path, np.float64))
    mask &= ~np.isin(own, np.asarray(without, own.dtype))
    found = int(mask.sum())
    if found > MOST_VALUES:
        raise Rejected(
            f"{found:,} rows are inside the path, and a filter takes {MOST_VALUES:,}; draw it around fewer"
        )
    chosen = replace(projection.selection, row_ids=projection.selection.row_ids[mask])
    return [
        name for first in range(0, found, BLOCK) for name in await chosen.strings("id", first=first) if name
    ]


async def _vectors(chosen: Selection, most: int) -> NDArray[np.float32]:
    return await replace(chosen, row_ids=_sample(chosen.row_ids, most)).vectors(first=0)


async def _placed(chosen: Selection, first: int, axes: Axes) -> _Placed:
    vectors = await chosen.vectors(first=first)
    texts = await chosen.strings("metadata", first=first)
    positions = await asyncio.to_thread(axes.project, vectors)
    return _Placed(positions, [orjson.loads(text) if text else {} for text in texts])


def _sample(values: NDArray[Any], most: int) -> NDArray[Any]:
    """Return at most `most` values at equal distances."""
    if len(values) <= most:
        return values
    return values[np.linspace(0, len(values) - 1, most).round().astype(np.int64)]
