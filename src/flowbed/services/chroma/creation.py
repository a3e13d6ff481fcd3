"""Collections that Chroma's clients create, describe and delete."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from flowbed.errors import Conflict, Misconfigured, NotFound, Rejected, Transient
from flowbed.records.names import is_store
from flowbed.records.precomputed import PrecomputedRows, precomputed_source
from flowbed.services.chroma.collections import KEY, CollectionSettings, read_settings

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from flowbed.records.serving import Caller
    from flowbed.services.chroma.collections import ChromaCollection, CollectionDirectory
    from flowbed.services.chroma.rows import RowService
    from flowbed.services.chroma.writes import WriteService
    from flowbed.services.project import Project

NAME = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9._-]{1,510}[a-zA-Z0-9]")  # Chroma's rule
# Changes of one collection's settings that others may make first.
TRIES = 10


class CreationService:
    """Creates, changes and deletes collections for callers who may write."""

    def __init__(
        self, bed: Project, directory: CollectionDirectory, rows: RowService, writes: WriteService
    ) -> None:
        """Change nothing yet."""
        self._bed, self._directory, self._rows, self._writes = bed, directory, rows, writes

    async def create(
        self, caller: Caller, name: str, settings: CollectionSettings, *, get_or_create: bool
    ) -> ChromaCollection:
        """Create a collection in the space of the project's model.

        With `get_or_create`, one that exists is returned as it is, to callers who may only read too.

        Raises:
            Forbidden: the caller may not write, or its key may not use the model of the collection.
            Conflict: there is one of this name.
            Rejected: the name is invalid.
        """
        if NAME.fullmatch(name) is None:
            raise Rejected(
                "Validation error: name: Expected a name containing 3-512 characters from [a-zA-Z0-9._-], starting and"
                f" ending with a character in [a-zA-Z0-9]. Got: {name[:512]}"
            )
        if is_store(name):
            raise Rejected(f"Collection [{name}] cannot have the name of a vector store: choose another one")
        existing = await self._directory.find(name)
        if existing is not None and get_or_create:
            return existing
        self._writes.require_writer(caller)
        if existing is not None:
            raise Conflict(f"Collection [{name}] already exists")
        self._rows.require_new(caller, self._bed.model)
        try:
            await self._bed.write_rows(name, PrecomputedRows(), commit=False)
        except Misconfigured as error:
            raise Rejected(str(error)) from error
        wanted = replace(settings, created=True)
        await self._save(name, lambda before: replace(wanted, revision=before.revision + 1))
        return await self._directory.named(name)

    async def modify(
        self,
        caller: Caller,
        collection: ChromaCollection,
        *,
        name: str | None,
        metadata: Mapping[str, Any] | None,
        hnsw: Mapping[str, Any] | None,
        embedding_function: Mapping[str, Any] | None,
    ) -> None:
        """Replace what is said of a collection; what is None stays.

        Raises:
            Forbidden: the caller may not write, or its key may not use the model of the collection.
            Rejected: it has to be renamed.
        """
        self._writes.require_writer(caller)
        self._rows.require_model(caller, collection)
        if name not in (None, collection.name):
            raise Rejected(
                f"Collection [{collection.name}] cannot be renamed: create another one and copy its rows"
            )

        def change(before: CollectionSettings) -> CollectionSettings:
            return replace(
                before,
                metadata=before.metadata if metadata is None else _kept(metadata),
                hnsw={**before.hnsw, **_kept(hnsw or {})},
                embedding_function=embedding_function or before.embedding_function,
                revision=before.revision + 1,
            )

        await self._save(collection.name, change)

    async def delete(self, caller: Caller, name: str) -> None:
        """Delete a collection that a client created, and all its rows.

        Raises:
            Forbidden: the caller may not write, or its key may not use the model of the collection.
            NotFound: there is none.
            Rejected: it is one that the project filled; the message says how its rows are deleted.
        """
        self._writes.require_writer(caller)
        found = await self._directory.named(name)
        self._rows.require_model(caller, found)
        if not found.settings.created:
            raise Rejected(await self._why_kept(name))
        await self._writes.clear(found)
        await self._save(name, lambda before: replace(before, deleted=True, revision=before.revision + 1))

    async def _why_kept(self, name: str) -> str:
        """Say why a client cannot delete a collection that none created, and what deletes its rows."""
        said = f"Collection [{name}] was filled by the project, so a client cannot delete it"
        of_sources = (
            "`flowbed sources remove NAME` and `flowbed run NAME --allow-deletes` remove what its source gave"
        )
        if await self._bed.ledger.documents.count(precomputed_source(name)):
            return (
                f"{said}: delete the rows that came with their vectors (`flowbed import`, deltas) by their ids or a"
                f" filter, with collection.delete(...); where a source also fills it, {of_sources}"
            )
        return f"{said}: {of_sources}"

    async def _save(self, name: str, change: Callable[[CollectionSettings], CollectionSettings]) -> None:
        """Change the stored settings of a collection in one conditional step."""
        key = f"{name}/{KEY}"
        for _ in range(TRIES):
            try:
                stored = await self._bed.store.get(key)
            except NotFound:
                stored = None
            before = CollectionSettings() if stored is None else read_settings(stored.body, key)
            body = change(before).to_json()
            try:
                if stored is None:
                    await self._bed.store.create(key, body)
                else:
                    await self._bed.store.replace(key, body, etag=stored.etag)
            except Conflict:
                continue
            self._directory.forget(name)
            return
        raise Transient(f"others kept changing collection {name} at the same time: try again")


def _kept(values: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in values.items() if value is not None}
