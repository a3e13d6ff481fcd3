"""Versions of collections: kept, checked, compacted and rolled back."""

from __future__ import annotations

from typing import TYPE_CHECKING

from flowbed.blocking.loop import Loop

if TYPE_CHECKING:
    from flowbed.index.compaction import Compaction, VectorIndex
    from flowbed.index.versions import Version
    from flowbed.ledger import Rollback
    from flowbed.maintenance.gc import Collected
    from flowbed.maintenance.verify import Verified
    from flowbed.pipeline.rollback import Released


class Versions(Loop):
    """Versions of collections: kept, checked, compacted and rolled back."""

    def versions(self, collection: str) -> list[Version]:
        """List the versions of a collection that are kept, newest first."""
        return self._wait(self._bed.versions(collection))

    def compact(
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
        return self._wait(
            self._bed.compact(collection, vector_index=vector_index, full_text=full_text, now=now)
        )

    def verify(
        self, *collections: str, repair: bool = False, allow_deletes: bool = False
    ) -> dict[str, Verified]:
        """Check that index, ledger and store agree, in the named collections or in all; `repair` fixes what differs.

        Raises:
            NotFound: there is no collection of that name.
        """
        return self._wait(self._bed.verify(*collections, repair=repair, allow_deletes=allow_deletes))

    def gc(self, *collections: str, dry_run: bool = False) -> Collected:
        """Delete stored objects that are no longer needed, of the named collections or of the whole project.

        Raises:
            NotFound: there is no collection of that name.
        """
        return self._wait(self._bed.gc(*collections, dry_run=dry_run))

    def tag(self, collection: str, version: int, name: str) -> None:
        """Keep a version for good, under a name; if another version has the name, the name moves.

        Raises:
            NotFound: there is no such collection or version.
            Misconfigured: the name is invalid.
        """
        self._wait(self._bed.tag(collection, version, name))

    def untag(self, collection: str, name: str) -> bool:
        """Remove a tag, so that its version expires as others do; return whether the tag existed."""
        return self._wait(self._bed.untag(collection, name))

    def rollback(self, collection: str, version: int) -> Rollback:
        """Restore an older version of a collection as a new version, and mark the runs committed since as reverted.

        Raises:
            NotFound: there is no such collection or version.
        """
        return self._wait(self._bed.rollback(collection, version))

    def release(self, collection: str) -> Released:
        """Commit the runs that rollbacks of a collection reverted, without embedding anything."""
        return self._wait(self._bed.release(collection))
