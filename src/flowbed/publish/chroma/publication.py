"""Publishes versions as Chroma directories: built and verified here, uploaded, and then named by the pointer."""

from __future__ import annotations

import re
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING

from flowbed.errors import Conflict, Misconfigured, NotFound, Rejected, Transient
from flowbed.index.versions import identity, state, was_built_again
from flowbed.index.versions.changes import changes
from flowbed.publish import Published, checked_options
from flowbed.publish.chroma import (
    complete_snapshots,
    move_pointer,
    read_pointer,
    read_snapshot,
)
from flowbed.publish.chroma.building import Plan, build
from flowbed.publish.chroma.children import Damaged
from flowbed.publish.chroma.files import Torn
from flowbed.publish.chroma.rows_held import rows_held
from flowbed.publish.chroma.uploading import claim, still_claimed, upload_snapshot, wrong_in_store
from flowbed.records.values import count
from flowbed.telemetry import POINTER_MOVED, reached

if TYPE_CHECKING:
    from collections.abc import Mapping

    from flowbed.index.active_space import Live
    from flowbed.index.versions.changes import Changes
    from flowbed.publish import PublishContext
    from flowbed.publish.chroma import Pointer, Snapshot

# Chroma's rule for names of collections.
NAME = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9._-]{1,510}[a-zA-Z0-9]")
# Settings of Chroma's graph. With Chroma's own defaults (100 and 16), of 16,879 lines of receipts, two thirds of which
# are repeated, 6 % do not find themselves; with these, 0.7 %.
GRAPH = {"ef_construction": 200, "max_neighbors": 32, "ef_search": 100}
# Updating many rows takes longer than building all, and every update leaves a dead vector in the graph.
MOST_CHANGED = 0.25
BUILT_AGAIN = "the index was built again since"
# Publishers that overtake each other: one of them moves the pointer each time.
ATTEMPTS = 3


def open_chroma(context: PublishContext, options: Mapping[str, str]) -> ChromaDirectories:
    """Open the publication of Chroma directories in the project's store.

    Raises:
        Misconfigured: an option is invalid, or chromadb is not installed.
    """
    checked_options(context, options, ("name", *GRAPH))
    installed = installed_version(context.name)
    graph = {name: _number(context, name, options.get(name, str(default))) for name, default in GRAPH.items()}
    return ChromaDirectories(context, name=options.get("name", ""), graph=graph, installed=installed)


def installed_version(publication: str) -> str:
    """Return the version of chromadb.

    Raises:
        Misconfigured: it is not installed.
    """
    try:
        return version("chromadb")
    except PackageNotFoundError as error:
        raise Misconfigured(
            f"publish.{publication}: publishing Chroma directories needs chromadb: pip install 'flowbed[chroma]'"
        ) from error


def checked_name(name: str, publication: str) -> str:
    """Return a name for a collection of Chroma.

    Raises:
        Misconfigured: Chroma takes no collection of that name.
    """
    if not NAME.fullmatch(name):
        raise Misconfigured(
            f"publish.{publication}: Chroma takes no collection called {name!r}: set options.name to"
            " 3 to 512 letters, digits, ., _ and -, with a letter or digit at both ends"
        )
    return name


class ChromaDirectories:
    """Snapshots of collections as Chroma directories, behind one pointer each."""

    def __init__(
        self, context: PublishContext, *, name: str, graph: Mapping[str, int], installed: str
    ) -> None:
        """Publish under Chroma's collection `name` (default: Flowbed's), with chromadb `installed`."""
        self._context, self._name, self._graph, self._installed = context, name, graph, installed

    async def publish(self, live: Live, version: int) -> Published:
        """Publish a version of the index, from the changes since the current snapshot where that is worth it.

        Raises:
            Conflict: other publishers kept moving the pointer.
            Misconfigured: the current snapshot was made by a newer chromadb, or the collection's name is not valid.
            Damaged: the new snapshot differs from the index; nothing was published.
        """
        return await self._publish(live, version, rebuild="")

    async def reconcile(self, live: Live, version: int) -> Published:
        """Check every file of the current snapshot, and publish a new one if one is missing or damaged."""
        pointer = await read_pointer(self._context.store, live.collection)
        fault = "there is no pointer"
        if pointer is not None:
            fault = await wrong_in_store(self._context.store, live.collection, pointer.version)
            fault = fault or await self._wrong_rows(live, pointer.version)
        return await self._publish(live, version, rebuild=fault)

    async def renew(self, live: Live, version: int, *, reason: str) -> Published:
        """Publish a snapshot that is built from nothing: a changed copy keeps the bytes of deleted rows."""
        return await self._publish(live, version, rebuild=reason)

    async def _wrong_rows(self, live: Live, snapshot: str) -> str:
        """Say how many rows the current snapshot has, if that is not what its list or the index says."""
        held = await read_snapshot(self._context.store, live.collection, snapshot)
        try:
            rows = await rows_held(self._context.store, held, self._context.scratch)
        except Rejected as error:
            return str(error)
        now = await state(live, datasets=self._context.datasets)
        wanted = now.rows if now.version == held.index_version else held.rows
        return "" if rows == held.rows == wanted else f"it has {count(rows, 'row')} instead of {wanted:,}"

    async def aclose(self) -> None:
        """Close nothing: there are no connections."""

    async def _publish(self, live: Live, version: int, *, rebuild: str) -> Published:
        for _ in range(ATTEMPTS):
            pointer = await read_pointer(self._context.store, live.collection)
            base, why = await self._base(live, pointer)
            newest = (await state(live, datasets=self._context.datasets)).version
            # With a higher number than the index has, it is from an index that was dropped and filled again.
            if base is not None and why != BUILT_AGAIN and version <= base.index_version <= newest:
                if not (why or rebuild):
                    return _unchanged(self._context.name, base, base.index_version)
                if base.space == live.space.fingerprint:
                    version = newest  # what is written again must not be older than what readers have seen
            if base is None:
                await self._refuse_older(live, version, newest)
            try:
                return await self._replace(live, version, pointer, base, rebuild=rebuild or why)
            except _Overtaken:
                continue
        raise Conflict(f"others kept publishing {live.collection} at the same time; run again")

    async def _base(self, live: Live, pointer: Pointer | None) -> tuple[Snapshot | None, str]:
        """Return the current snapshot, and why it cannot be built upon, if it cannot."""
        if pointer is None:
            return None, "nothing was published before"
        try:
            base = await read_snapshot(self._context.store, live.collection, pointer.version)
        except (NotFound, Rejected) as error:
            return None, f"the snapshot that the pointer names cannot be used: {error}"
        if _numbers(base.chromadb) > _numbers(self._installed):
            raise Misconfigured(
                f"{live.collection} was published with chromadb {base.chromadb}, and this machine has"
                f" {self._installed}, which cannot open it: pip install 'chromadb>={base.chromadb}'"
            )
        return base, await self._unfit(live, base)

    async def _unfit(self, live: Live, base: Snapshot) -> str:
        """Say why the next snapshot cannot be made from the current one; an empty text if it can."""
        if base.space != live.space.fingerprint:
            return "the collection's space has changed"
        if await was_built_again(
            live, base.index_version, base.index_identity, datasets=self._context.datasets
        ):
            return BUILT_AGAIN
        if base.chromadb != self._installed:
            return f"it was made with chromadb {base.chromadb}, this machine has {self._installed}"
        if (base.name, base.graph) != (self._collection(live), self._graph):
            return "its settings have changed"
        return ""

    async def _refuse_older(self, live: Live, version: int, newest: int) -> None:
        """Without a usable pointer, go by the snapshots themselves: a missing pointer does not mean an empty store."""
        found = await complete_snapshots(self._context.store, live.collection)
        same = [each.index_version for each in found if each.space == live.space.fingerprint]
        if any(version < each <= newest for each in same):
            raise Conflict(
                f"version {max(same)} of {live.collection} was published before, and this is version {version}:"
                " run again"
            )

    async def _replace(
        self, live: Live, version: int, pointer: Pointer | None, base: Snapshot | None, *, rebuild: str
    ) -> Published:
        """Build, verify and upload a snapshot, and make it the current one."""
        context, name = self._context, self._collection(live)
        planned, rebuild = await self._plan(live, version, base, rebuild)
        if base is not None and not rebuild and not planned.upserts and not planned.deleted:
            return _unchanged(self._context.name, base, version)
        plan = Plan(
            live=live,
            name=name,
            graph=self._graph,
            changes=planned,
            base=None if rebuild else base,
            superseded=0
            if rebuild or base is None
            else base.superseded + planned.upserts + len(planned.deleted),
            chromadb=self._installed,
            identity=await identity(live, version, datasets=context.datasets),
        )
        try:
            built = await build(context, plan)
        except (Torn, Damaged) as error:
            if rebuild:
                raise
            return await self._replace(
                live, version, pointer, base, rebuild=f"the base cannot be used: {error}"
            )
        with built.directory():
            claimed = await claim(context, live.collection, after=pointer)
            snapshot = built.described(
                claimed.version, parent=base.version if base else None, created=claimed.moment
            )
            await upload_snapshot(context, snapshot, built.path)
            await still_claimed(context, claimed)
            await self._move(snapshot, pointer)
            reached(POINTER_MOVED, collection=live.collection, version=snapshot.version)
            built.keep(snapshot.version)
        await context.store.delete([claimed.key])
        return Published(
            publication=context.name,
            collection=live.collection,
            place=snapshot.version,
            version=version,
            rows=snapshot.rows,
            upserts=planned.upserts,
            deletes=len(planned.deleted),
            rebuilt=rebuild,
            uploaded=snapshot.size,
        )

    async def _plan(
        self, live: Live, version: int, base: Snapshot | None, rebuild: str
    ) -> tuple[Changes, str]:
        """Return the rows to write, and why all of them, if all of them."""
        datasets = self._context.datasets
        if base is not None and not rebuild:
            try:
                found = await changes(live, base.index_version, version, datasets=datasets)
            except NotFound:
                rebuild = f"version {base.index_version} of the index, which it holds, is not kept any more"
            else:
                moved = found.upserts + len(found.deleted)
                if not moved or moved + base.superseded <= MOST_CHANGED * found.rows:
                    return found, ""
                rebuild = (
                    f"{moved + base.superseded:,} changes are more than a quarter of {found.rows:,} rows"
                )
        return await changes(live, None, version, datasets=datasets), rebuild

    async def _move(self, snapshot: Snapshot, before: Pointer | None) -> None:
        """Move the pointer, and find out whether that happened if the answer is lost.

        Raises:
            _Overtaken: another publisher moved it first; nothing was changed.
        """
        store, collection = self._context.store, snapshot.collection
        for attempt in range(ATTEMPTS):
            try:
                await move_pointer(store, collection, snapshot.version, before=before)
            except Conflict as error:
                if await self._is_current(snapshot):
                    return
                raise _Overtaken(str(error)) from error
            except Transient:
                if await self._is_current(snapshot):
                    return
                if attempt == ATTEMPTS - 1:
                    raise
            else:
                return

    async def _is_current(self, snapshot: Snapshot) -> bool:
        """Return whether the pointer names a snapshot, or one that was made from it."""
        now = await read_pointer(self._context.store, snapshot.collection)
        if now is None or now.version == snapshot.version:
            return now is not None
        try:
            after = await read_snapshot(self._context.store, snapshot.collection, now.version)
        except (NotFound, Rejected):
            return False
        return after.parent == snapshot.version

    def _collection(self, live: Live) -> str:
        return checked_name(self._name or live.collection, self._context.name)


class _Overtaken(Conflict):
    """Another publisher moved the pointer first."""


def _unchanged(name: str, base: Snapshot, version: int) -> Published:
    return Published(
        publication=name,
        collection=base.collection,
        place=base.version,
        version=version,
        rows=base.rows,
        already=True,
    )


def _number(context: PublishContext, name: str, value: str) -> int:
    if not value.isdecimal() or int(value) < 2:  # noqa: PLR2004 - the least that Chroma takes
        raise Misconfigured(f"publish.{context.name}: {name} is {value!r}; it has to be a number from 2")
    return int(value)


def _numbers(text: str) -> tuple[int, ...]:
    return tuple(int(each) for each in re.findall(r"\d+", text)[:3])
