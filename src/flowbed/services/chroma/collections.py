"""Collections as Chroma's clients see them: a stable id, a distance, a configuration."""

from __future__ import annotations

import re
from dataclasses import asdict, dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any, cast
from uuid import UUID, uuid5

import orjson

from flowbed.errors import Damaged, NotFound, Rejected
from flowbed.index.active_space import live_collection
from flowbed.records.names import is_store

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from flowbed.index.active_space import Live
    from flowbed.index.search.nearest import Metric
    from flowbed.index.search.reader import IndexReader
    from flowbed.storage import Store

# Ids are made of a collection's name and space, so that every server gives it the same, and another space another.
NAMESPACE = UUID("6f0f6f5e-5b0b-5a4e-9d7c-8a6f9c2f1f57")
TENANT, DATABASE = "default_tenant", "default_database"
# What a Chroma client said of a collection that it created.
KEY = "chroma.json"
# Seconds for which what was read is used again: another server's new or changed collection is seen this late.
FRESH = 1.0
METRICS = ("cosine", "l2", "ip")
# Chroma's defaults; Flowbed builds its own kind of index and uses none of them.
HNSW = {
    "ef_construction": 100,
    "ef_search": 100,
    "max_neighbors": 16,
    "resize_factor": 1.2,
    "sync_threshold": 1000,
}
UUIDS = re.compile(r"[0-9a-fA-F]{8}-?(?:[0-9a-fA-F]{4}-?){3}[0-9a-fA-F]{12}")


@dataclass(frozen=True, kw_only=True)
class CollectionSettings:
    """What clients said of a collection; none of it changes how rows are stored.

    `created` marks one that a client created, `deleted` one that a client deleted afterwards. `revision` counts the
    changes.
    """

    metadata: Mapping[str, Any] | None = None
    metric: Metric = "cosine"
    hnsw: Mapping[str, Any] = field(default_factory=dict)
    embedding_function: Mapping[str, Any] | None = None
    created: bool = False
    deleted: bool = False
    revision: int = 0

    def to_json(self) -> bytes:
        """Return this as it is stored."""
        return orjson.dumps(asdict(self))

    @classmethod
    def from_json(cls, body: bytes) -> CollectionSettings:
        """Parse the result of `to_json`.

        Raises:
            ValueError: it is something else.
        """
        fields = orjson.loads(body)
        if not isinstance(fields, dict) or fields.get("metric") not in METRICS:
            raise ValueError("it does not say by which distance rows are compared")
        return cls(**fields)


@dataclass(frozen=True, kw_only=True)
class ChromaCollection:
    """A collection in its live space."""

    live: Live
    settings: CollectionSettings

    @property
    def name(self) -> str:
        """Its name."""
        return self.live.collection

    @cached_property
    def id(self) -> str:
        """Its id, of the form of a UUID."""
        return str(uuid5(NAMESPACE, f"{self.name}\n{self.live.space.fingerprint}"))

    def described(self) -> dict[str, Any]:
        """Describe it as Chroma's API does."""
        space = self.live.space
        metadata = self.settings.metadata
        if metadata is None and not self.settings.created:
            metadata = {"hnsw:space": self.settings.metric, "model": space.model, "space": space.fingerprint}
        return {
            "id": self.id,
            "name": self.name,
            "configuration_json": {
                "hnsw": {"space": self.settings.metric, **HNSW, **self.settings.hnsw},
                "spann": None,
                "embedding_function": self.settings.embedding_function,
            },
            "schema": None,
            "metadata": metadata,
            "dimension": space.dimensions,
            "tenant": TENANT,
            "database": DATABASE,
            "log_position": 0,
            "version": 0,
        }


class CollectionDirectory:
    """Finds collections by name or id."""

    def __init__(self, store: Store, reader: IndexReader, *, monotonic: Callable[[], float]) -> None:
        """Read nothing yet; `monotonic` returns seconds."""
        self._store, self._reader, self._monotonic = store, reader, monotonic
        self._read: dict[str, tuple[float, ChromaCollection]] = {}
        self._names: dict[str, str] = {}

    async def all(self) -> list[ChromaCollection]:
        """List every collection, by name."""
        visible = [live for live in await self._reader.collections() if not is_store(live.collection)]
        found = [await self._describe(live) for live in visible]
        return [each for each in found if not each.settings.deleted]

    async def named(self, name: str) -> ChromaCollection:
        """Return a collection by its name.

        Raises:
            NotFound: there is none.
        """
        found = await self.find(name)
        if found is None:
            raise NotFound(f"Collection [{name}] does not exist")
        return found

    async def with_id(self, id: str) -> ChromaCollection:  # noqa: A002 - Chroma's name
        """Return a collection by its id.

        Raises:
            Rejected: that is no UUID.
            NotFound: there is none.
        """
        known = self._names.get(id)
        found = None if known is None else await self.find(known)
        if found is not None and found.id == id:
            return found
        if UUIDS.fullmatch(id) is None:
            raise Rejected("Collection ID is not a valid UUIDv4")
        wanted = str(UUID(id))
        found = next((each for each in await self.all() if each.id == wanted), None)
        if found is None:
            raise NotFound(f"Collection [{id}] does not exist.")
        return found

    def forget(self, name: str) -> None:
        """Read a collection again when it is next asked for."""
        self._read.pop(name, None)

    async def find(self, name: str) -> ChromaCollection | None:
        """Return a collection by its name; None if there is none, or a client deleted it."""
        if is_store(name):
            return None  # only its owner may read it, through the API of vector stores
        read, found = self._read.get(name, (0.0, None))
        if found is None or self._monotonic() - read >= FRESH:
            try:
                live = await live_collection(self._store, name)
            except Rejected:
                return None  # a name that no key can have
            found = None if live is None else await self._describe(live)
        return None if found is None or found.settings.deleted else found

    async def _describe(self, live: Live) -> ChromaCollection:
        began, key = self._monotonic(), f"{live.collection}/{KEY}"
        try:
            body = (await self._store.get(key)).body
        except NotFound:
            found = ChromaCollection(live=live, settings=CollectionSettings())
        else:
            found = ChromaCollection(live=live, settings=read_settings(body, key))
        self._read[live.collection] = began, found
        self._names[found.id] = live.collection
        return found


def read_settings(body: bytes, key: str) -> CollectionSettings:
    """Parse what clients said of a collection, as it is stored under `key`.

    Raises:
        Damaged: it is something else.
    """
    try:
        return CollectionSettings.from_json(body)
    except (ValueError, TypeError) as error:
        raise Damaged(
            f"{key} cannot be read ({error}); restore it, or remove it to use the defaults"
        ) from error


def require_database(tenant: str, database: str | None = None) -> None:
    """Require the one tenant and the one database that there are.

    Raises:
        NotFound: another one is named.
    """
    if tenant != TENANT:
        raise NotFound(f"Tenant [{tenant}] not found")
    if database not in (None, DATABASE):
        raise NotFound(f"Database [{database}] not found. Are you sure it exists?")


def metric_of(name: Any) -> Metric:
    """Return a distance that Chroma knows.

    Raises:
        Rejected: it does not.
    """
    if name not in METRICS:
        raise Rejected(f"unknown distance {name!r}; use one of {', '.join(METRICS)}")
    return cast("Metric", name)
