"""The only wiring: opens the parts that the settings name, and joins them into one `Flowbed`."""

from __future__ import annotations

import asyncio
import json
import secrets
import socket
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self, TypeVar

import psutil

from flowbed import pipeline, settings
from flowbed.chunking import Rules
from flowbed.embedding import open_embedder
from flowbed.embedding.cache import Cached
from flowbed.embedding.memory import VectorMemory
from flowbed.errors import Conflict, Misconfigured, NotFound, Rejected
from flowbed.index.datasets import Datasets
from flowbed.index.live import Live, live_collection, live_collections, require_same
from flowbed.index.search import Unit, search
from flowbed.index.versions import Version, versions
from flowbed.ledger import open_ledger
from flowbed.ledger.vectors import VectorFile
from flowbed.pipeline import embed, inspect, plan, run
from flowbed.records import Status, canonical
from flowbed.sources import kinds, open_source
from flowbed.storage import open_store

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from flowbed.index.compaction import Compaction, VectorIndex
    from flowbed.ledger import DeadLetter, Ledger
    from flowbed.pipeline.inspect import BedStatus, Reason
    from flowbed.records import Found, Hit, Plan, Report
    from flowbed.storage import Store

Answer = TypeVar("Answer")

FORMAT = 1  # of a store's layout
HIDDEN = ".flowbed"
# The nearest tier of the vector cache: 40,000 vectors of 384 dimensions, for as long as a run or a server's hour lasts.
MEMORY_BYTES, MEMORY_SECONDS = 64 * 2**20, 3600.0
# Options of a source that are the chunker's; all others are the source's own.
CHUNKING = ("capacity", "neighbours")


class Flowbed:
    """One project: its sources, what is known of them, and the index that is kept in step with them."""

    def __init__(self, folder: Path, config: settings.Settings, store: Store, ledger: Ledger) -> None:
        """Join opened parts; use `flowbed.aopen` to open a project."""
        self.folder = folder
        self.settings = config
        self._store, self._ledger = store, ledger
        self._datasets = Datasets(store)
        self._embedder: Cached | None = None
        self._vectors: VectorFile | None = None
        self._opening = threading.Lock()

    async def __aenter__(self) -> Self:
        """Use the project as a context."""
        return self

    async def __aexit__(self, *_: object) -> None:
        """Close the project."""
        await self.close()

    async def close(self) -> None:
        """Let go of files and databases."""
        if self._vectors is not None:
            await self._vectors.close()
        await self._ledger.close()

    async def add(
        self,
        name: str,
        *,
        kind: str,
        location: str | Path,
        collection: str | None = None,
        options: Mapping[str, Any] | None = None,
    ) -> None:
        """Write a source into `flowbed.toml`, in the place of any of that name.

        Raises:
            Misconfigured: the name, the kind, the location or an option cannot be used.

        """
        await asyncio.to_thread(
            add,
            self.folder,
            name,
            kind=kind,
            location=str(location),
            collection=collection,
            options=options or {},
        )
        self.settings = await asyncio.to_thread(settings.read_settings, self.folder)

    async def plan(self, *names: str, allow_deletes: bool = False) -> Plan:
        """Work out what a run of the sources named (or all) would do, and what it would cost."""
        return await plan.plan(self._parts(), feeds=self._feeds(names), allow_deletes=allow_deletes)

    async def run(
        self, *names: str, allow_deletes: bool = False, status: Status | None = None, limit: int | None = None
    ) -> Report:
        """Bring the index in step with the sources named (or all); only chunks of `status`, and at most `limit`."""
        return await run.run(
            self._parts(),
            feeds=self._feeds(names),
            allow_deletes=allow_deletes,
            statuses=embed.WAITING if status is None else {status},
            limit=limit,
        )

    async def search(
        self,
        query: str | Sequence[float],
        *,
        collection: str | None = None,
        where: Mapping[str, Any] | None = None,
        limit: int = 10,
        at: int | None = None,
        unit: Unit = "chunk",
    ) -> tuple[Hit, ...]:
        """Find what is nearest to a text or a vector, best first; see `find` for the versions that were asked."""
        return (
            await self.find(query, collection=collection, where=where, limit=limit, at=at, unit=unit)
        ).hits

    async def find(
        self,
        query: str | Sequence[float],
        *,
        collection: str | None = None,
        where: Mapping[str, Any] | None = None,
        limit: int = 10,
        at: int | None = None,
        unit: Unit = "chunk",
    ) -> Found:
        """Find what is nearest to a text or a vector, in one collection or in all of the model's space.

        With unit `document` each document counts once, by its best chunk. `at` asks an older version of a collection.

        Raises:
            NotFound: there is no such collection or version.
            Rejected: the filter, the limit or the vector cannot be used.
            Misconfigured: the collection lives in another space than the model set.

        """
        import numpy as np  # noqa: PLC0415 - only searching needs it here

        if at is not None and collection is None:
            message = "a version is one collection's: name the collection too"
            raise Rejected(message)
        embedder = await asyncio.to_thread(self._open_embedder)
        asked = await self._asked(collection, embedder)
        if isinstance(query, str):
            if not query.strip():
                message = "the query is empty; ask for something"
                raise Rejected(message)
            vector = (await embedder.embed([query], purpose="query")).vectors[0]
        else:
            vector = np.asarray(query, np.float32)
            if vector.shape != (embedder.space.dimensions,) or not np.isfinite(vector).all():
                message = (
                    f"the query vector has to be {embedder.space.dimensions} numbers, as the model's are"
                )
                raise Rejected(message)
        return await search(
            vector, asked, datasets=self._datasets, where=where, limit=limit, at=at, unit=unit
        )

    async def status(self) -> BedStatus:
        """Describe every collection, the chunks by status, and what waits for someone to look."""
        return await inspect.status(self._parts())

    async def why(self, subject: str) -> list[Reason]:
        """Say what is known of a chunk or of every chunk of a document."""
        return await inspect.why(self._parts(), subject)

    async def versions(self, collection: str) -> list[Version]:
        """List the versions of a collection that are kept, newest first."""
        return await versions(await self._live(collection), datasets=self._datasets)

    async def compact(
        self, collection: str | None = None, *, vector_index: VectorIndex = "auto"
    ) -> dict[str, Compaction]:
        """Compact one collection or all: merge small files, keep the vector index in step, drop what is outlived."""
        names = [live.collection for live in await live_collections(self._store)]
        if collection is not None:
            names = [(await self._live(collection)).collection]
        done = {}
        for name in names:
            compacted = await run.compact_one(self._parts(), name, vector_index=vector_index)
            if compacted is not None:
                done[name] = compacted
        return done

    async def dead_letters(self) -> list[DeadLetter]:
        """List what failed for good until someone looks, oldest first."""
        return [letter async for page in self._ledger.dead_letters.pages() for letter in page]

    async def retry_dead_letters(self, *subjects: str) -> int:
        """Let the chunks of the dead letters named (or of all) wait for the next run again; return how many do."""
        return await run.retry(self._parts(), subjects)

    def _parts(self) -> pipeline.Parts:
        return pipeline.Parts(
            store=self._store,
            ledger=self._ledger,
            datasets=self._datasets,
            embedder=self._open_embedder,
            clock=now,
            monotonic=time.monotonic,
            dead=dead,
            worker=worker(),
            concurrency=self.settings.concurrency,
            sources=frozenset(self.settings.sources),
        )

    def _feeds(self, names: Sequence[str]) -> dict[str, pipeline.Feed]:
        known = self.settings.sources
        for name in names:
            if name not in known:
                there = (
                    f"there are: {', '.join(sorted(known))}"
                    if known
                    else "there are none yet; `flowbed add` makes one"
                )
                message = f"no source is called {name!r}; {there}"
                raise Misconfigured(message)
        if not known:
            message = "this project has no sources yet; add one, such as: flowbed add handbook files docs/"
            raise Misconfigured(message)
        return {name: feed(name, known[name], self.folder) for name in names or known}

    async def _asked(self, collection: str | None, embedder: Cached) -> list[Live]:
        if collection is not None:
            live = await self._live(collection)
            require_same(live, embedder.space)
            return [live]
        found = await live_collections(self._store)
        asked = [live for live in found if live.space.fingerprint == embedder.space.fingerprint]
        if not asked:
            message = "nothing was indexed yet; `flowbed run` does it"
            if found:
                message = (
                    f"no collection lives in the space of {embedder.space.model} ({embedder.space.space8})"
                )
            raise NotFound(message)
        return asked

    async def _live(self, collection: str) -> Live:
        live = await live_collection(self._store, collection)
        if live is None:
            there = [each.collection for each in await live_collections(self._store)]
            known = (
                f"there are: {', '.join(there)}"
                if there
                else "nothing was indexed yet; `flowbed run` does it"
            )
            message = f"no collection is called {collection!r}; {known}"
            raise NotFound(message)
        return live

    def _open_embedder(self) -> Cached:
        with self._opening:
            if self._embedder is None:
                hidden = self.folder / HIDDEN
                embedder = open_embedder(
                    self.settings.model, cache=hidden / "models", options=self.settings.model_options
                )
                tiers: list[Any] = [VectorMemory(limit=MEMORY_BYTES, ttl=MEMORY_SECONDS)]
                if self.settings.vector_cache_mb:
                    self._vectors = VectorFile(
                        hidden / "vectors" / "vectors.db",
                        limit=self.settings.vector_cache_mb * 2**20,
                        clock=time.time,
                    )
                    tiers.append(self._vectors)
                self._embedder = Cached(embedder, tiers)
            return self._embedder


async def aopen(folder: str | Path = ".") -> Flowbed:
    """Open the project in `folder`, made where absent.

    Raises:
        Misconfigured: its settings cannot be used, or its store belongs to another ledger.

    """
    place = await asyncio.to_thread(_project, Path(folder))
    config = await asyncio.to_thread(settings.read_settings, place)
    store = await asyncio.to_thread(open_store, config.store, folder=place)
    ledger = await open_ledger(config.ledger, folder=place, new_id=secrets.token_hex(16))
    try:
        await _belongs(store, ledger, config)
    except BaseException:
        await ledger.close()
        raise
    return Flowbed(place, config, store, ledger)


def _project(folder: Path) -> Path:
    place = folder.expanduser().absolute()
    try:
        (place / HIDDEN).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        message = f"the project folder {place} cannot be used: {error.strerror}"
        raise Misconfigured(message) from error
    return place


def add(
    folder: Path, name: str, *, kind: str, location: str, collection: str | None, options: Mapping[str, Any]
) -> None:
    """Write a source into the `flowbed.toml` of `folder`, once it is seen that it can be opened.

    Raises:
        Misconfigured: the name, the kind, the location or an option cannot be used.

    """
    source = settings.SourceSettings(
        kind=kind, location=location, collection=collection, options=dict(options)
    )
    feed(name, source, folder)
    if (
        "://" not in location
        and not (folder / location).exists()
        and not any(mark in location for mark in "*?[")
    ):
        message = (
            f"location {location!r} of source {name!r} does not exist below {folder}; give a path that does"
        )
        raise Misconfigured(message)
    settings.add_source(
        folder, name, kind=kind, location=location, collection=collection, options=dict(options)
    )


def feed(name: str, source: settings.SourceSettings, folder: Path) -> pipeline.Feed:
    """Open a source and decide how it is chunked, and into which collections.

    Raises:
        Misconfigured: the kind is unknown, or an option is.

    """
    settings.checked_name(name, "source")
    if source.kind not in kinds():
        message = f"no source is of kind {source.kind!r}; the kinds are: {', '.join(sorted(kinds()))}"
        raise Misconfigured(message)
    own = {key: value for key, value in source.options.items() if key not in CHUNKING}
    collections: tuple[str, ...] = (source.collection or name,)
    if source.kind == "receipts":
        prefix = f"{source.collection}-" if source.collection else ""
        collections = (f"{prefix}lines", f"{prefix}words")
    return pipeline.Feed(
        source=open_source(source.kind, source.location, folder=folder, options=own, clock=now),
        rules=Rules(
            source=name,
            collections=collections,
            **{key: _whole(source.options[key], key) for key in CHUNKING if key in source.options},
        ),
    )


def _whole(value: object, key: str) -> int:
    try:
        return int(str(value))
    except ValueError:
        message = f"option {key} is {value!r}; it has to be a whole number"
        raise Misconfigured(message) from None


async def _belongs(store: Store, ledger: Ledger, config: settings.Settings) -> None:
    """Tie a new store to its ledger, and refuse a store that is tied to another."""
    try:
        await store.create("flowbed.json", canonical({"format": FORMAT, "ledger": ledger.id}))
    except Conflict:
        try:
            said = dict(json.loads((await store.get("flowbed.json")).body))
        except (ValueError, TypeError) as error:
            message = f"flowbed.json of store {config.store} is damaged ({error}); restore it before going on"
            raise Misconfigured(message) from error
        if said.get("format") != FORMAT:
            message = (
                f"store {config.store} has format {said.get('format')}; this Flowbed reads format {FORMAT}"
            )
            raise Misconfigured(message) from None
        if said.get("ledger") != ledger.id:
            message = (
                f"store {config.store} belongs to another ledger ({str(said.get('ledger'))[:8]}) than {config.ledger}"
                f" ({ledger.id[:8]}): put the ledger back that it was filled with, or set another store"
            )
            raise Misconfigured(message) from None
    else:
        if await ledger.chunks.counts():
            # What the ledger takes for indexed is not here: a run would find nothing to do, and a search nothing.
            await store.delete(["flowbed.json"])
            message = (
                f"store {config.store} is empty, and ledger {config.ledger} knows of chunks in another one: put that"
                " store back, or set a new ledger to index everything again (vectors that are cached cost nothing)"
            )
            raise Misconfigured(message)


def now() -> int:
    """Tell the time: microseconds since 1970."""
    return time.time_ns() // 1000


def worker() -> str:
    """Name one piece of this process's work so that others here can tell whether it lives: host, pid, start, nonce."""
    process = psutil.Process()
    return f"{socket.gethostname()}/{process.pid}/{process.create_time():.2f}/{secrets.token_hex(4)}"


def dead(name: str) -> bool:
    """Tell whether the process that `worker` named is known to have ended; of another host nothing is known."""
    host, pid, started, _ = name.rsplit("/", 3)
    if host != socket.gethostname():
        return False
    try:
        return f"{psutil.Process(int(pid)).create_time():.2f}" != started
    except psutil.NoSuchProcess:
        return True
