"""One Lance dataset for each collection and space: where it is, which is live, how it is made and opened."""

from __future__ import annotations

import asyncio
import os
from typing import TYPE_CHECKING, TypeVar

from flowbed.errors import Error, Misconfigured, NotFound, OutOfSpace, Rejected, Transient
from flowbed.index.deltas import PRIMARY_KEY, schema
from flowbed.index.live import Live, begin_space
from flowbed.telemetry import INDEX_CREATED, reached

# Lance's own log writes notes for its developers to standard error; it reads this once, when it is imported.
os.environ.setdefault("LANCE_LOG", "error")  # noqa: TID251 - set before the import, never read

import lance

if TYPE_CHECKING:
    from collections.abc import Callable

    from flowbed.records import Space
    from flowbed.storage import Store

Answer = TypeVar("Answer")


class Datasets:
    """The datasets below one store."""

    def __init__(self, store: Store) -> None:
        """Open nothing yet."""
        self.store = store
        self._session = lance.Session()  # type: ignore[attr-defined]

    async def begin(self, collection: str, space: Space, *, now: int) -> Live:
        """Make `space` live where none is, and its dataset where there is none; repeatable.

        Raises:
            Misconfigured: another space is live.

        """
        live = await begin_space(self.store, collection, space, now=now)
        await self.writable(live)
        return live

    async def writable(self, live: Live) -> lance.LanceDataset:
        """Open the newest version to write on, made empty where there is none: writing on an older one loses rows."""

        def open_or_create() -> lance.LanceDataset:
            dataset = self._open(live)
            return dataset if dataset is not None else self._create(live)  # an empty dataset is false

        return await blocking(open_or_create, f"the index of {live.collection}")

    async def open(self, live: Live, *, version: int | None = None) -> lance.LanceDataset | None:
        """Open the newest version, or the one named; None where the dataset is not made yet.

        Raises:
            NotFound: there is no such version (any more).

        """
        return await blocking(lambda: self._open(live, version), f"the index of {live.collection}")

    def _open(self, live: Live, version: int | None = None) -> lance.LanceDataset | None:
        place = self.store.location(live.key)
        if version is not None and not 0 < version < 2**63:
            message = (
                f"collection {live.collection} has no version {version}; `flowbed versions` lists those kept"
            )
            raise NotFound(message)
        try:
            dataset = lance.dataset(
                place.uri, version=version, storage_options=dict(place.options), session=self._session
            )
        except ValueError as error:
            if "was not found" not in str(error):
                raise
            if version is None:
                return None
            message = (
                f"collection {live.collection} has no version {version}; `flowbed versions` lists those kept"
            )
            raise NotFound(message) from error
        mark = dataset.schema.field("id").metadata or {}
        if mark.get(next(iter(PRIMARY_KEY)).encode()) != b"true":
            message = (
                f"{live.key} has no primary key, so merging into it would leave duplicates; build it anew"
            )
            raise Misconfigured(message)
        return dataset

    def _create(self, live: Live) -> lance.LanceDataset:
        place = self.store.location(live.key)
        try:
            lance.write_dataset(
                schema(live.space.dimensions).empty_table(),
                place.uri,
                mode="create",
                storage_options=dict(place.options),
                data_storage_version="2.2",  # the first that holds the JSON type
            )
        except OSError as error:
            # Another process made it meanwhile, which is just as well.
            if "already exists" not in str(error) and "conflict" not in str(error).lower():
                raise
        reached(INDEX_CREATED, collection=live.collection)
        dataset = self._open(live)
        if dataset is None:
            message = f"{live.key} was made and is gone again; does something else clean the store up?"
            raise Transient(message)
        return dataset


async def blocking(work: Callable[[], Answer], what: str) -> Answer:
    """Run Lance's blocking `work` in a thread, and translate what it raises."""
    try:
        return await asyncio.to_thread(work)
    except Error:
        raise
    except (OSError, RuntimeError, ValueError) as error:
        raise translate(error, what) from error


def translate(error: Exception, what: str) -> Error:
    """Say what Lance's error means: its kinds are told apart only by their text."""
    text = str(error)
    first = text.splitlines()[0] if text else type(error).__name__
    if "No space left" in text or "os error 28" in text or "os error 122" in text or "os error 27" in text:
        return OutOfSpace(
            f"the disk is full: {what} could not be written; nothing is lost, free space and run again"
        )
    if "Permission denied" in text or "Read-only file system" in text:
        return Misconfigured(f"{what} cannot be written: {first}")
    if "Invalid user input" in text:
        return Rejected(f"{what} cannot answer that: {first}")
    if "conflict" in text.lower() or "contention" in text.lower():
        return Transient(f"{what}: others kept writing at the same time; run again ({first})")
    if isinstance(error, OSError):
        return Transient(f"{what}: {first}")
    raise error
