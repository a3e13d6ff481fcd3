"""Rows that are erased everywhere, and kept from returning."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from flowbed.blocking.loop import Loop

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from flowbed.maintenance.forget import Forgettable, Receipt


class Forgetting(Loop):
    """Rows that are erased everywhere, and kept from returning."""

    def find_to_forget(
        self,
        *ids: str,
        documents: Sequence[str] = (),
        where: Mapping[str, Any] | None = None,
        collection: str | None = None,
    ) -> Forgettable:
        """Find what `forget` would erase with the same arguments, without changing anything.

        Raises:
            NotFound: a chunk, a document or the collection is not known.
            Rejected: nothing was named, or the filter is invalid.
        """
        return self._wait(
            self._bed.find_to_forget(*ids, documents=documents, where=where, collection=collection)
        )

    def forget(
        self,
        *ids: str,
        documents: Sequence[str] = (),
        where: Mapping[str, Any] | None = None,
        collection: str | None = None,
        most: int | None = 100,
    ) -> Receipt:
        """Erase rows everywhere in the project and its publications, and keep them from returning.

        All older versions of their collections are dropped, with their tags. The receipt says what was erased and what
        could not be reached; it names no row. Interrupted, it is finished by `resume_forget`.

        Args:
            ids: ids of chunks.
            documents: whole documents, as DOCUMENT or SOURCE#DOCUMENT.
            where: a filter on metadata; the chunks that match it now.
            collection: only look in this collection for `ids` and `where`; default: in all.
            most: refuse to forget more rows than this; None allows any number.

        Raises:
            NotFound: a chunk, a document or the collection is not known.
            Rejected: nothing was named, the filter is invalid, or there are more than `most` rows.
        """
        return self._wait(
            self._bed.forget(*ids, documents=documents, where=where, collection=collection, most=most)
        )

    def resume_forget(self) -> list[Receipt]:
        """Finish what `forget` has not: it was interrupted, or a place could not be reached then.

        Raises:
            Damaged: a request cannot be read.
        """
        return self._wait(self._bed.resume_forget())

    def lift_forget(self, *ids: str, documents: Sequence[str] = ()) -> int:
        """Let forgotten chunks or documents return with the next run that finds them; return how many.

        Raises:
            NotFound: one was not forgotten.
            Rejected: nothing was named.
        """
        return self._wait(self._bed.lift_forget(*ids, documents=documents))
