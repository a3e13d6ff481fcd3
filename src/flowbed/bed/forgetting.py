"""Rows that are erased everywhere, and kept from returning."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from flowbed.wiring.project import OpenProject

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from flowbed.maintenance.forget import Forgettable, Receipt
    from flowbed.maintenance.forget.erase import Places


class Forgetting(OpenProject):
    """Rows that are erased everywhere, and kept from returning."""

    async def find_to_forget(
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
        from flowbed.maintenance.forget.find import find

        _, named = await find(
            self._context(), ids=ids, documents=documents, where=where, collection=collection
        )
        return named

    async def forget(
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
        from flowbed.wiring.forgetting import forget_rows

        return await forget_rows(
            self._context(),
            self._places(),
            self._embedders,
            ids=ids,
            documents=documents,
            where=where,
            collection=collection,
            most=most,
        )

    async def resume_forget(self) -> list[Receipt]:
        """Finish what `forget` has not: it was interrupted, or a place could not be reached then.

        Raises:
            Damaged: a request cannot be read.
        """
        from flowbed.maintenance.forget.erase import resume
        from flowbed.wiring.forgetting import new_salt

        return await resume(self._context(), self._places(), salt=new_salt())

    async def lift_forget(self, *ids: str, documents: Sequence[str] = ()) -> int:
        """Let forgotten chunks or documents return with the next run that finds them; return how many.

        Raises:
            NotFound: one was not forgotten.
            Rejected: nothing was named.
        """
        from flowbed.maintenance.forget.lift import lift
        from flowbed.wiring.forgetting import new_salt

        return await lift(self._context(), ids=ids, documents=documents, salt=new_salt())

    def _places(self) -> Places:
        from flowbed.wiring.forgetting import places_of

        return places_of(self.folder, self.settings, self._embedders, self._publish_context)
