"""Versions of collections: kept, checked, compacted and rolled back."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from flowbed.wiring.project import OpenProject

if TYPE_CHECKING:
    from flowbed.errors import Error
    from flowbed.index.compaction import Compaction, VectorIndex
    from flowbed.index.versions import Version
    from flowbed.ledger import Rollback
    from flowbed.maintenance.gc import Collected
    from flowbed.maintenance.verify import Verified
    from flowbed.pipeline.rollback import Released


class Versions(OpenProject):
    """Versions of collections: kept, checked, compacted and rolled back."""

    async def versions(self, collection: str) -> list[Version]:
        """List the versions of a collection that are kept, newest first."""
        from flowbed.index.versions import versions

        return await versions(await self._live(collection), datasets=self._datasets)

    async def compact(
        self,
        collection: str | None = None,
        *,
        vector_index: VectorIndex = "auto",
        full_text: bool = False,
        now: bool = False,
    ) -> dict[str, Compaction]:
        """Compact one collection or all: merge small files, extend the indexes, drop expired versions.

        With `full_text`, build a full-text index where there is none; later runs and compactions extend it.
        With `now`, drop every version but the newest and the tagged ones, and erase deleted rows from the disk. Of all
        collections, one that fails does not stop the others; its error is raised at the end.
        """
        from flowbed.index.datasets import UNREADABLE
        from flowbed.index.versions.retention import NOTHING
        from flowbed.pipeline.run import compact_one

        failures: list[Error] = []
        if collection is None:
            chosen, damaged = await self._context().collections.readable()
            failures += damaged.values()
        else:
            chosen = [await self._live(collection)]
        retention = NOTHING if now else None
        done = {}
        for live in chosen:
            try:
                compacted = await compact_one(
                    self._context(),
                    live,
                    vector_index=vector_index,
                    retention=retention,
                    full_text=full_text,
                )
            except UNREADABLE as error:
                failures.append(error)
                continue
            if compacted is not None:
                done[live.collection] = compacted
        if failures:
            raise failures[0]
        return done

    async def verify(
        self, *collections: str, repair: bool = False, allow_deletes: bool = False
    ) -> dict[str, Verified]:
        """Check that index, ledger and store agree, in the named collections or in all; `repair` fixes what differs.

        Raises:
            NotFound: there is no collection of that name.
        """
        from flowbed.maintenance.verify import verify

        return await verify(self._context(), collections, repair=repair, allow_deletes=allow_deletes)

    async def gc(self, *collections: str, dry_run: bool = False) -> Collected:
        """Delete stored objects that are no longer needed, of the named collections or of the whole project.

        Raises:
            NotFound: there is no collection of that name.
        """
        from flowbed.embedding.cache.disk import drop_damaged
        from flowbed.maintenance.garbage import Garbage
        from flowbed.maintenance.gc import collect

        done = await collect(self._context(), collections, dry_run=dry_run)
        if not collections:
            for size in await asyncio.to_thread(drop_damaged, self._embedders.vector_file, dry_run=dry_run):
                done.add(Garbage(kind="vector cache", key="", bytes=size, why="damaged"))
        return done

    async def tag(self, collection: str, version: int, name: str) -> None:
        """Keep a version for good, under a name; if another version has the name, the name moves.

        Raises:
            NotFound: there is no such collection or version.
            Misconfigured: the name is invalid.
        """
        from flowbed.index.versions.history import require_tag, tag

        require_tag(name)
        await tag(await self._live(collection), name, version, datasets=self._datasets)

    async def untag(self, collection: str, name: str) -> bool:
        """Remove a tag, so that its version expires as others do; return whether the tag existed."""
        from flowbed.index.versions.history import untag

        return await untag(await self._live(collection), name, datasets=self._datasets)

    async def rollback(self, collection: str, version: int) -> Rollback:
        """Restore an older version of a collection as a new version, and mark the runs committed since as reverted.

        Raises:
            NotFound: there is no such collection or version.
        """
        from flowbed.pipeline.rollback import roll_back

        return await roll_back(self._context(), await self._live(collection), version)

    async def release(self, collection: str) -> Released:
        """Commit the runs that rollbacks of a collection reverted, without embedding anything."""
        from flowbed.pipeline.rollback import release

        return await release(self._context(), await self._live(collection))
