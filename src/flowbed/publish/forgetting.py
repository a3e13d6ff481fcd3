"""Publications without rows that were forgotten: new ones are made, and then the older ones are deleted."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from flowbed.errors import Error, Misconfigured
from flowbed.index.versions import state
from flowbed.publish import Renewable, open_publication
from flowbed.publish.chroma import VERSION, read_pointer, snapshot_key, snapshots_key
from flowbed.publish.chroma.garbage import delete_snapshot
from flowbed.publish.chroma.readers import leased_versions
from flowbed.publish.records import read_record, write_record
from flowbed.telemetry import FORGET_PUBLISHED, reached

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from flowbed.index.active_space import Live
    from flowbed.publish import PublishContext
    from flowbed.publish.due import Configured
    from flowbed.storage import Store

REASON = "rows were forgotten"
NOT_REPLACED = (
    "it may hold the rows, and no publication of the settings could replace it: publish the collection, or delete the"
    " folder"
)
DATABASE_KEEPS = (
    "the rows are deleted on the Chroma server, whose database keeps their bytes until `chroma vacuum` is"
    " run there"
)
# What publications keep in the store, by the kind that can replace it.
KEPT = {"chroma": "snapshot", "parquet": "parquet"}


@dataclass(frozen=True, kw_only=True)
class Republished:
    """What was published instead, by publication; how many snapshots were deleted; and what could not be reached.

    Of the latter, `left` can be reached by doing it again.
    """

    published: tuple[str, ...]
    deleted: int
    not_reached: tuple[tuple[str, str], ...]
    left: tuple[tuple[str, str], ...]


async def republish(
    configured: Sequence[Configured],
    context_of: Callable[[str], PublishContext],
    live: Live,
    *,
    store: Store,
    now: int,
) -> Republished:
    """Publish a collection without what was erased from its index, everywhere where it was published before."""
    snapshots = set(await _snapshots(store, live.collection))
    published: list[Configured] = []
    problems: list[tuple[str, str]] = []
    left: list[tuple[str, str]] = []
    for each in configured:
        context = context_of(each.name)
        if not await _was_published(each, live, store, snapshots):
            continue
        try:
            await _publish(each, context, live)
        except Error as error:
            left.append((f"publication {each.name} of {live.collection}", str(error)))
            continue
        published.append(each)
        reached(FORGET_PUBLISHED, collection=live.collection, publication=each.name)
    replaced = {each.kind for each in published}
    problems += [
        (f"publication {each.name} of {live.collection}", DATABASE_KEEPS)
        for each in published
        if each.kind == "chroma-server"
    ]
    deleted = 0
    if "chroma" in replaced:
        deleted = await _delete_older(store, live.collection, snapshots, problems, now=now)
    for kind, folder in KEPT.items():
        if kind not in replaced and [key async for key in store.list(f"{live.collection}/{folder}")]:
            left.append((f"{live.collection}/{folder}", NOT_REPLACED))
    return Republished(
        published=tuple(each.name for each in published),
        deleted=deleted,
        not_reached=tuple(problems),
        left=tuple(left),
    )


async def _was_published(each: Configured, live: Live, store: Store, snapshots: set[str]) -> bool:
    """Return whether a publication has a collection, also if it was killed before it could record that."""
    if not each.covers(live.collection):
        return False
    kept = KEPT.get(each.kind)
    if each.kind == "chroma" and snapshots:
        return True
    if kept is not None and [key async for key in store.list(f"{live.collection}/{kept}")]:
        return True
    return await read_record(store, live.collection, each.name) is not None


async def _publish(each: Configured, context: PublishContext, live: Live) -> None:
    version = (await state(live, datasets=context.datasets)).version
    publication = open_publication(each.kind, context, each.options)
    try:
        if isinstance(publication, Renewable):
            done = await publication.renew(live, version, reason=REASON)
        else:
            done = await publication.reconcile(live, version)
    finally:
        await publication.aclose()
    await write_record(context.store, done, space=live.space.fingerprint, now=context.clock())


async def _snapshots(store: Store, collection: str) -> list[str]:
    return [each for each in await store.folders(snapshots_key(collection)) if VERSION.fullmatch(each)]


async def _delete_older(
    store: Store, collection: str, snapshots: set[str], problems: list[tuple[str, str]], *, now: int
) -> int:
    """Delete the snapshots that there were before, also those that a reader is downloading."""
    try:
        pointer = await read_pointer(store, collection)
    except Misconfigured as error:
        problems.append((f"{collection}/snapshot", str(error)))
        return 0
    old = sorted(snapshots - {pointer.version if pointer is not None else ""})
    for version in sorted(set(old) & set(await leased_versions(store, collection, now=now))):
        why = "a reader was downloading it when it was deleted, and may have a copy"
        problems.append((snapshot_key(collection, version), why))
    for version in old:
        await delete_snapshot(store, snapshot_key(collection, version))
    return len(old)
