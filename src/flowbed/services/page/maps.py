"""Maps of collections for callers who may read them; a map is made once for each version."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from flowbed.errors import NotFound
from flowbed.index.active_space import require_collection

if TYPE_CHECKING:
    from collections.abc import Sequence

    from flowbed.index.active_space import Live
    from flowbed.index.projection import Projection
    from flowbed.records import IndexedText
    from flowbed.records.serving import Caller
    from flowbed.services.page.browsing import BrowseService
    from flowbed.services.project import Project

KEPT = 4  # maps: a megabyte or two each at 100,000 points


@dataclass(frozen=True, kw_only=True)
class Area:
    """A path of corners (x, y) in a map's plane, without the points of some places in its sources or topics."""

    path: Sequence[Sequence[float]]
    by: Literal["topic", "source"] = "topic"
    without: Sequence[int] = ()


class MapService:
    """Projects collections, one at a time; the newest maps are kept."""

    def __init__(self, bed: Project, browse: BrowseService) -> None:
        """Draw the collections of `bed`; `browse` says who may read them."""
        self._bed, self._browse = bed, browse
        self._kept: OrderedDict[tuple[str, int], Projection] = OrderedDict()
        self._drawing = asyncio.Lock()

    async def get(self, caller: Caller, collection: str) -> Projection:
        """Return the map of a collection's newest version.

        Raises:
            NotFound: there is no such collection, or it has no rows.
        """
        await self._browse.require(caller)
        reader = self._bed.reader()
        live = await reader.live(collection) or await require_collection(self._bed.store, collection)
        async with self._drawing:  # one map takes all cores for a second or two
            version = await self._newest(live)
            kept = self._kept.get((live.key, version))
            return kept or await self._draw(live)

    async def rows(
        self, caller: Caller, collection: str, *, version: int, points: Sequence[int]
    ) -> list[IndexedText]:
        """Read the rows of some points of a map that was returned, by this process or another.

        Raises:
            NotFound: the collection has another version now, or a point is not one of the map's.
        """
        from flowbed.index.projection.reading import texts_at

        kept = await self._kept_at(caller, collection, version)
        return await texts_at(kept, points)

    async def inside(self, caller: Caller, collection: str, *, version: int, area: Area) -> list[str]:
        """Return the ids of the rows inside an area of a map that was returned, at most as many as a filter takes.

        Raises:
            NotFound: the collection has another version now.
            Rejected: the area has more rows.
        """
        from flowbed.index.projection.reading import ids_inside

        kept = await self._kept_at(caller, collection, version)
        return await ids_inside(kept, area.path, by=area.by, without=area.without)

    async def _kept_at(self, caller: Caller, collection: str, version: int) -> Projection:
        await self._browse.require(caller)
        live = await self._bed.reader().live(collection)
        kept = None if live is None else self._kept.get((live.key, version))
        if kept is None:
            kept = await self.get(caller, collection)  # the same rows give the same points
        if kept.version != version:
            raise NotFound(
                f"the map of version {version} of {collection} is no longer kept, and there is version"
                f" {kept.version}; ask for the map again",
                code="map_gone",
            )
        return kept

    async def _newest(self, live: Live) -> int:
        found = await self._bed.reader().datasets.reading(live, lambda dataset: dataset.version())
        return 0 if found is None else found[0]

    async def _draw(self, live: Live) -> Projection:
        from flowbed.index.projection.reading import project

        drawn = await project(live, self._bed.reader())
        self._kept[live.key, drawn.version] = drawn
        while len(self._kept) > KEPT:
            self._kept.popitem(last=False)
        return drawn
