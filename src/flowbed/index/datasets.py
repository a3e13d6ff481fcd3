"""One Lance dataset for each collection and space: where it is, which is live, how it is made and opened."""

from __future__ import annotations

import asyncio
import contextlib
from functools import cached_property, partial
from typing import TYPE_CHECKING, TypeVar

from flowbed.errors import Error, Misconfigured, NotFound, OutOfSpace, Rejected, Transient
from flowbed.index.active_space import Live, begin_space
from flowbed.index.native import new_session, open_dataset
from flowbed.index.schema import PRIMARY_KEY, schema
from flowbed.telemetry import INDEX_CREATED, reached

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import lance

    from flowbed.index.native import Dataset, Session
    from flowbed.records import Space
    from flowbed.storage import Store

Answer = TypeVar("Answer")
Opened = TypeVar("Opened", "lance.LanceDataset", "Dataset")  # by either part of Lance

# What Lance says of a file that a version needs and that is gone.
NOT_FOUND = "Not found"


class Datasets:
    """The datasets below one store."""

    def __init__(self, store: Store) -> None:
        """Open nothing yet."""
        self.store = store
        self._newest: dict[str, Dataset] = {}  # the last version searched of each, by key

    @cached_property
    def _session(self) -> Session:
        return new_session()

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
        import lance  # a search does without: see `native`

        return self._found(live, version, partial(lance.dataset, session=self._session))

    def _found(self, live: Live, version: int | None, open_at: Callable[..., Opened]) -> Opened | None:
        place = self.store.location(live.key)
        if version is not None and not 0 < version < 2**63:
            raise NotFound(self._missing(live, version))
        try:
            dataset = open_at(place.uri, version=version, storage_options=dict(place.options))
        except ValueError as error:
            if "was not found" not in str(error):
                raise
            if version is None:
                return None
            raise NotFound(self._missing(live, version)) from error
        mark = dataset.schema.field("id").metadata or {}
        if mark.get(next(iter(PRIMARY_KEY)).encode()) != b"true":
            raise Misconfigured(
                f"{live.key} has no primary key, so merging into it would leave duplicates; build it anew"
            )
        return dataset

    async def reading(
        self, live: Live, read: Callable[[Dataset], Answer], *, version: int | None = None
    ) -> tuple[Answer, int] | None:
        """Search one version, the newest or the one named, and tell which; None where there is no dataset yet.

        Raises:
            NotFound: there is no such version (any more).
        """

        def work() -> tuple[Answer, int] | None:
            dataset = self._newest_of(live) if version is None else self._search(live, version)
            if dataset is None:
                return None
            try:
                return read(dataset), dataset.version()
            except (OSError, ValueError) as error:
                if version is not None or NOT_FOUND not in str(error):
                    raise
            # Dropped while it was read, or another dataset was made in its place, which has come to the same number.
            self._newest.pop(live.key, None)
            dataset = self._newest_of(live)
            return None if dataset is None else (read(dataset), dataset.version())

        return await blocking(work, f"the index of {live.collection}")

    def _search(self, live: Live, version: int | None = None) -> Dataset | None:
        return self._found(live, version, partial(open_dataset, session=self._session))

    def _newest_of(self, live: Live) -> Dataset | None:
        """Open the newest version to search: where it was searched before, nothing but its number is asked."""
        held = self._newest.get(live.key)
        if held is not None:
            with contextlib.suppress(OSError, ValueError):  # opening it anew tells what is wrong
                if held.latest_version() == held.version():
                    return held
        dataset = self._search(live)
        if dataset is not None:
            self._newest[live.key] = dataset
        return dataset

    async def kept(self, live: Live) -> list[int]:
        """List the versions that are kept, oldest first; none where the dataset is not made yet."""
        return await blocking(lambda: self._kept(live), f"the index of {live.collection}")

    def _kept(self, live: Live) -> list[int]:
        dataset = self._open(live)
        return sorted(int(each["version"]) for each in dataset.version_refs()) if dataset is not None else []

    def _missing(self, live: Live, version: int) -> str:
        there = spans(self._kept(live))
        return (
            f"collection {live.collection} has no version {version}; it keeps {there or 'none yet'}:"
            f" `flowbed versions {live.collection}` tells more"
        )

    def _create(self, live: Live) -> lance.LanceDataset:
        import lance

        place = self.store.location(live.key)
        try:
            # `write_dataset` would look and write in two steps, and put an empty dataset in the place of one that was
            # made and filled in between. Read at version 0 and with no retry, this is the first version, or fails.
            lance.LanceDataset.commit(
                place.uri,
                lance.LanceOperation.Overwrite(schema(live.space.dimensions), []),
                read_version=0,
                max_retries=0,
                storage_options=dict(place.options),
            )
        except OSError:
            dataset = self._open(live)
            if dataset is None:
                raise
            return dataset  # another process made it meanwhile, or this one did and the answer was lost
        reached(INDEX_CREATED, collection=live.collection)
        dataset = self._open(live)
        if dataset is None:
            raise Transient(f"{live.key} was made and is gone again; does something else clean the store up?")
        return dataset


async def blocking(work: Callable[[], Answer], what: str) -> Answer:
    """Run Lance's blocking `work` in a thread, and translate what it raises."""
    try:
        return await asyncio.to_thread(work)
    except Error:
        raise
    except (OSError, RuntimeError, ValueError) as error:
        raise translate(error, what) from error


def spans(numbers: Sequence[int]) -> str:
    """Write ascending numbers for people: 1, 4-7, 9."""
    found: list[list[int]] = []
    for number in numbers:
        if found and number == found[-1][1] + 1:
            found[-1][1] = number
        else:
            found.append([number, number])
    return ", ".join(f"{first}-{last}" if last > first else f"{first}" for first, last in found)


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
    if isinstance(error, OSError) or "LanceError(IO)" in text or NOT_FOUND in text:
        return Transient(f"{what}: {first}")
    raise error
