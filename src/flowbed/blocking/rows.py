"""Rows that are written, imported or exported with their vectors."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from flowbed.blocking.loop import Loop

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from flowbed.pipeline.importing import Imported
    from flowbed.pipeline.producer_deltas import DeltasAdded
    from flowbed.publish.exporting import Exported, Kind
    from flowbed.records.precomputed import Ingested, PrecomputedRows


class Rows(Loop):
    """Rows that are written, imported or exported with their vectors."""

    def write_rows(
        self,
        collection: str,
        rows: PrecomputedRows,
        *,
        strict: bool = False,
        commit: bool = True,
        cache: bool = False,
    ) -> Ingested:
        """Write rows that come with vectors of the project's model into a collection; nothing is embedded or paid for.

        Safe to repeat: rows that are there already are skipped. All rows are held in memory: write large sets in groups
        of some thousands.

        Args:
            collection: the collection to write to, created if absent.
            rows: the rows to insert or replace, and the ids of those to delete.
            strict: write nothing if any row is refused.
            commit: make the rows searchable before returning; otherwise they are durable, and the next commit does it.
            cache: also keep the vectors in the cache, for other documents with the same texts.

        Raises:
            Rejected: columns differ in length, or vectors in dimensions; with `strict`, also if a row is refused.
            Misconfigured: the name is invalid, or the collection is of another space than the configured model.
        """
        return self._wait(self._bed.write_rows(collection, rows, strict=strict, commit=commit, cache=cache))

    def import_rows(
        self,
        location: str | Path,
        *,
        collection: str,
        space: str | None = None,
        name: str = "",
        check: bool = True,
    ) -> Imported:
        """Import rows with their vectors: nothing is paid for but a sample. Safe to repeat, and after a kill.

        Args:
            location: a Chroma directory, the address of a Chroma server (https://host:port), a Parquet file, or a
                folder of Parquet files.
            collection: the collection to write to, created if absent.
            space: the model that made the vectors, as vendor:model; default: the project's.
            name: the name of the collection in Chroma; default: its only one.
            check: compare the vectors of a sample of the texts with those that the model gives.

        Raises:
            Rejected: the rows cannot be read, or their vectors are not those of the model.
            NotFound: there is nothing at that location, or no such collection.
            Misconfigured: the collection is of another space, or the model cannot be used.
            Transient: the same import may succeed later.
        """
        return self._wait(
            self._bed.import_rows(location, collection=collection, space=space, name=name, check=check)
        )

    def add_deltas(self, *keys: str) -> DeltasAdded:
        """Register deltas of other producers, and commit all that are registered; a refused one becomes a dead letter.

        Safe to repeat. A key is COLLECTION/delta/RUN, with an archive delta.tar.gz or loose files of a Chroma
        directory, or a run record in JSON that names such prefixes (`lines_delta_prefix`). Without keys, those that an
        interrupted call has registered are committed.

        Raises:
            Rejected: a key is not that of a delta, or a run record cannot be read; nothing was registered.
        """
        return self._wait(self._bed.add_deltas(*keys))

    def export(
        self,
        collection: str,
        *,
        to: Kind,
        path: str | Path,
        at: int | None = None,
        where: Mapping[str, Any] | None = None,
        vectors: bool = True,
    ) -> Exported:
        """Write the rows of a collection into a file or folder that any program reads, and `import_rows` too.

        Args:
            collection: the collection to export.
            to: `chroma`, a directory for `chromadb.PersistentClient`; `parquet`, a file with the columns id, document,
                metadata and vector; `jsonl`, a file with an object per line: id, text, metadata and vector.
            path: where to write; it must not exist, and appears when it is whole and checked.
            at: an older version of the collection; default: the newest.
            where: a filter on metadata; default: all rows.
            vectors: with `jsonl`, whether to write vectors.

        Raises:
            NotFound: there is no such collection or version.
            Rejected: the path exists, the filter is invalid, or this kind always has vectors.
            Misconfigured: the path cannot be written, or chromadb is not installed.
            OutOfSpace: the disk is full.
        """
        return self._wait(self._bed.export(collection, to=to, path=path, at=at, where=where, vectors=vectors))
