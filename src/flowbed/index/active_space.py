"""Which space of a collection is live: `active.json`, read without Lance."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

from flowbed.errors import Conflict, Damaged, Misconfigured, NotFound
from flowbed.records import Space, canonical
from flowbed.records.names import is_store
from flowbed.records.values import suggestion

if TYPE_CHECKING:
    from collections.abc import Callable

    from flowbed.index.datasets import Datasets
    from flowbed.storage import Store

ACTIVE = "active.json"
# Seconds for which searches reuse what another search has read: too short for a person to notice. A space that was
# replaced within that second still answers the queries that were embedded for it.
FRESH = 1.0


@dataclass(frozen=True, kw_only=True)
class Live:
    """The live space of a collection: what its readers and writers use now."""

    collection: str
    space: Space

    @property
    def key(self) -> str:
        """The key of the dataset."""
        return f"{self.collection}/index/{self.space.space8}.lance"


async def live_collection(store: Store, collection: str) -> Live | None:
    """Read the live space of a collection; None if nothing was ever committed to it.

    Raises:
        Damaged: `active.json` is damaged.
    """
    try:
        stored = await store.get(f"{collection}/{ACTIVE}")
    except NotFound:
        return None
    try:
        space = _space(stored.body)
    except (ValueError, KeyError, TypeError) as error:
        raise Damaged(
            f"{collection}/{ACTIVE} cannot be read ({error}); restore it, or run `flowbed verify --repair`"
        ) from error
    return Live(collection=collection, space=space)


@lru_cache(maxsize=1024)  # every search reads it, and it hardly ever changes
def _space(body: bytes) -> Space:
    return Space.from_json(json.dumps(json.loads(body)["space"]))


async def live_collections(store: Store) -> list[Live]:
    """Read the live space of every collection that has one, sorted by name."""
    found = [await live_collection(store, name) for name in await store.folders("")]
    return [live for live in found if live is not None]


async def readable_collections(store: Store) -> tuple[list[Live], dict[str, str]]:
    """Do as `live_collections`, but leave out collections whose `active.json` is damaged; return why, by name."""
    found, damaged = [], {}
    for name in await store.folders(""):
        try:
            live = await live_collection(store, name)
        except Damaged as error:
            damaged[name] = str(error)
        else:
            found += [] if live is None else [live]
    return found, damaged


class Collections:
    """The live space of each collection, for one piece of work: a pointer never changes, and is read once."""

    def __init__(self, store: Store) -> None:
        """Read nothing yet."""
        self._store = store
        self._live: dict[str, Live] = {}
        self._begun: set[str] = set()

    async def get(self, collection: str) -> Live | None:
        """Return which space of a collection is live; None where nothing was ever committed to it.

        Raises:
            Damaged: `active.json` is damaged.
        """
        if collection not in self._live:
            live = await live_collection(self._store, collection)
            if live is None:
                return None
            self._live[collection] = live
        return self._live[collection]

    async def all(self) -> list[Live]:
        """Return the live space of every collection that has one, by name."""
        found = [await self.get(name) for name in await self._store.folders("")]
        return [live for live in found if live is not None]

    async def readable(self) -> tuple[list[Live], dict[str, Damaged]]:
        """Do as `all`, but leave out collections whose `active.json` is damaged; return why, by name."""
        found: list[Live] = []
        damaged: dict[str, Damaged] = {}
        for name in await self._store.folders(""):
            try:
                live = await self.get(name)
            except Damaged as error:
                damaged[name] = error
            else:
                found += [] if live is None else [live]
        return found, damaged

    async def begin(self, collection: str, space: Space, *, now: int, datasets: Datasets) -> Live:
        """Make `space` live where none is, and its dataset where there is none; repeatable.

        Raises:
            Misconfigured: another space is live.
        """
        live = await self.get(collection)
        if live is None:
            live = self._live[collection] = await datasets.begin(collection, space, now=now)
        else:
            require_same(live, space)
            if collection not in self._begun:
                await datasets.writable(live)
        self._begun.add(collection)
        return live


async def require_collection(store: Store, collection: str) -> Live:
    """Read the live space of a collection.

    Raises:
        NotFound: there is no such collection; the message names those that there are, without vector stores.
    """
    live = await live_collection(store, collection)
    if live is not None:
        return live
    # Who asks may be anybody: the ids of vector stores are their owners'.
    existing = [each.collection for each in await live_collections(store) if not is_store(each.collection)]
    known = (
        f"there are: {', '.join(existing)}" if existing else "nothing is indexed yet; `flowbed run` does it"
    )
    raise NotFound(f"no collection is called {collection!r}{suggestion(collection, existing)}; {known}")


class RecentSpaces:
    """A cache of each collection's live space, for searches of this process; entries expire after a second."""

    def __init__(self, store: Store, *, monotonic: Callable[[], float]) -> None:
        """Start empty; `monotonic` returns seconds."""
        self._store, self._monotonic = store, monotonic
        self._read: dict[str, tuple[float, Live]] = {}

    async def get(self, collection: str) -> Live | None:
        """Return the live space of a collection; None if nothing was ever committed to it.

        Raises:
            Damaged: `active.json` is damaged.
        """
        read, live = self._read.get(collection, (0.0, None))
        if live is not None and self._monotonic() - read < FRESH:
            return live
        began = self._monotonic()
        live = await live_collection(self._store, collection)
        if live is not None:
            self._read[collection] = began, live
        return live


async def begin_space(store: Store, collection: str, space: Space, *, now: int) -> Live:
    """Make `space` live if no space is; safe to repeat.

    Raises:
        Misconfigured: another space is live.
    """
    body = canonical({"collection": collection, "space": json.loads(space.to_json()), "since": now})
    live = await live_collection(store, collection)
    while live is None:
        try:
            await store.create(f"{collection}/{ACTIVE}", body)
        except Conflict:
            live = await live_collection(store, collection)
        else:
            live = Live(collection=collection, space=space)
    require_same(live, space)
    return live


def require_same(live: Live, space: Space) -> None:
    """Refuse to mix two spaces.

    Raises:
        Misconfigured: `space` is not the live one.
    """
    if live.space.fingerprint != space.fingerprint:
        raise Misconfigured(
            f"collection {live.collection} has vectors of space {live.space.space8} ({live.space.model}), but the"
            f" configured model has space {space.space8} ({space.model}), and spaces are never mixed: set the model"
            " back, or use another collection"
        )
