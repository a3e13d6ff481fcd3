"""Searches, and rows and vectors read from the index."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from flowbed.errors import Rejected
from flowbed.index.active_space import require_collection
from flowbed.wiring import opening
from flowbed.wiring.project import OpenProject

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from datetime import datetime

    import numpy as np
    from numpy.typing import NDArray

    from flowbed.index.projection import Projection
    from flowbed.index.search import Mode, Order
    from flowbed.index.search.fields import Fields
    from flowbed.index.search.hits import Unit
    from flowbed.records import Hit, IndexedText, Purpose, SearchResults


class Search(OpenProject):
    """Searches, and rows and vectors read from the index."""

    async def search(
        self,
        query: str | Sequence[float] = "",
        *,
        collection: str | None = None,
        where: Mapping[str, Any] | None = None,
        since: str | float | datetime | None = None,
        before: str | float | datetime | None = None,
        order: Order = "score",
        limit: int = 10,
        at: int | None = None,
        unit: Unit = "chunk",
        mode: Mode = "vector",
        text: str = "",
        like: str | None = None,
        rerank: bool = False,
        cursor: str | None = None,
    ) -> tuple[Hit, ...]:
        """Return the hits nearest to a text or a vector, best first; `find` also returns the versions searched.

        Its arguments and errors are those of `find`.
        """
        return (
            await self.find(
                query,
                collection=collection,
                where=where,
                since=since,
                before=before,
                order=order,
                limit=limit,
                at=at,
                unit=unit,
                mode=mode,
                text=text,
                like=like,
                rerank=rerank,
                cursor=cursor,
            )
        ).hits

    async def find(
        self,
        query: str | Sequence[float] = "",
        *,
        collection: str | None = None,
        where: Mapping[str, Any] | None = None,
        since: str | float | datetime | None = None,
        before: str | float | datetime | None = None,
        order: Order = "score",
        limit: int = 10,
        at: int | None = None,
        unit: Unit = "chunk",
        mode: Mode = "vector",
        text: str = "",
        like: str | None = None,
        rerank: bool = False,
        cursor: str | None = None,
    ) -> SearchResults:
        """Find the rows nearest to a text or a vector, or with the words of a text, in one collection or in all.

        Args:
            query: a text, or a vector of the model's dimensions.
            collection: the collection to search; default: by `text` all, otherwise all in the model's space.
            where: a filter on metadata, such as `{"source": "slack", "ts": {"$gte": 1447}}`.
            since: only rows whose time is not before this: a date, a time (UTC without a zone), seconds since 1970, or
                an age such as `7d`.
            before: only rows whose time is before this.
            order: by `score`, or the best by their time, the `newest` or `oldest` first.
            limit: return at most this many hits.
            at: search this older version of `collection`.
            unit: what a hit is: a `chunk`, or a `document`, scored by its best chunk.
            mode: how rows are found: by `vector`, those nearest in meaning; by `text`, those with words of the query,
                without a call to the model; `hybrid` joins both by rank.
            text: the words to look for in a hybrid search, if the query is a vector.
            like: in place of a query, the id of a row: find what is near it, without itself, or with unit `document`
                without its document.
            rerank: let the reranker of the settings order the best 50 hits, or as many as `limit`, by their texts.
            cursor: go on after the page whose `next` this is, with the same arguments; the pages of one search show no
                hit twice, also while the index changes.

        Raises:
            NotFound: there is no such collection or version.
            Rejected: the query, the filter or another argument is invalid, or a large collection is searched by
                text without a full-text index.
            Misconfigured: the collection is of another space than the configured model.
        """
        if self._searcher is None:
            from flowbed.wiring.search import Searcher
            from flowbed.wiring.search.reranking import Reranking

            self._searcher = Searcher(
                self._store,
                self.reader(),
                self._embedders,
                Reranking(self.folder, self.settings, self._ledger, hidden=self.folder / opening.HIDDEN),
            )
        return await self._searcher.find(
            query,
            collection=collection,
            where=where,
            since=since,
            before=before,
            order=order,
            limit=limit,
            at=at,
            unit=unit,
            mode=mode,
            text=text,
            like=like,
            rerank=rerank,
            cursor=cursor,
        )

    async def fields(
        self, collection: str, *, where: Mapping[str, Any] | None = None, values: int = 10
    ) -> Fields:
        """Return which metadata the rows of a collection have, or those that match `where`: keys, types, common values.

        Of each key, up to `values` values are returned, the commonest first. All of up to 100,000 rows are read, and as
        many, evenly spread, of more.

        Raises:
            NotFound: there is no such collection.
            Rejected: the filter, or the number of values, is invalid.
        """
        from flowbed.index.search.fields import fields

        return await fields(await self._live(collection), datasets=self._datasets, where=where, values=values)

    async def around(
        self, name: str, *, before: int = 1, after: int = 1, collection: str | None = None
    ) -> tuple[IndexedText, ...]:
        """Return the row of that id, and up to `before` and `after` rows around it in its document, in order.

        Without a `collection`, the first that has the row is read.

        Raises:
            NotFound: no collection has the row, or there is no such collection.
            Rejected: more than 50 rows of a side are asked for.
        """
        from flowbed.index.active_space import readable_collections
        from flowbed.index.search.around import around
        from flowbed.records.names import is_store

        if collection is None:
            readable, _ = await readable_collections(self._store)
            found = [live for live in readable if not is_store(live.collection)]
        else:
            found = [await require_collection(self._store, collection)]
        return await around(name, found, datasets=self._datasets, before=before, after=after)

    async def rows(
        self,
        collection: str,
        *,
        ids: Sequence[str] | None = None,
        where: Mapping[str, Any] | None = None,
        offset: int = 0,
        limit: int | None = None,
    ) -> tuple[IndexedText, ...]:
        """Return the newest rows of a collection that have one of the `ids` and match `where`, in the order of ids.

        All are held in memory: read large collections in parts, by `offset` and `limit`, or use `export`.

        Raises:
            NotFound: there is no such collection.
            Rejected: the filter is invalid.
        """
        from flowbed.index.search.rows import RowReader, indexed_texts

        live = await self._live(collection)
        found = await RowReader(self._datasets).select(live, ids=ids, where=where, offset=offset, limit=limit)
        return () if found is None else await indexed_texts(found)

    async def vectors(self, *texts: str, purpose: Purpose = "document") -> NDArray[np.float32]:
        """Embed texts with the project's model, through its cache, and store them nowhere else.

        Returns:
            An array of shape (texts, dimensions), in the order of the texts.

        Raises:
            Rejected: a text is empty, or the model refuses it.
            Transient: the provider does not answer now.
        """
        model = await self._embedders.live()
        for number, text in enumerate(texts, 1):
            if not text.strip():
                raise Rejected(f"text {number} of {len(texts)} is empty: leave it out")
        sent = await asyncio.to_thread(lambda: [model.read(text).sent for text in texts])
        return (await model.embed(sent, purpose=purpose)).vectors

    async def map(self, collection: str, *, points: int = 100_000) -> Projection:
        """Project the vectors of a collection onto a plane; of more than `points` rows a sample is drawn.

        Raises:
            NotFound: there is no such collection, or it has no rows.
        """
        from flowbed.index.projection.reading import project

        return await project(await self._live(collection), self.reader(), most=points)

    async def map_rows(
        self, projection: Projection, points: Sequence[int] | None = None
    ) -> list[IndexedText]:
        """Read the rows of some points of a map, or of all.

        Raises:
            NotFound: a point is not one of the map's.
        """
        from flowbed.index.projection.reading import texts_at

        return await texts_at(projection, range(len(projection.points)) if points is None else points)
