"""Publishes collections: all that were asked for, or those that are due after a commit."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from flowbed.errors import Error, Misconfigured
from flowbed.index.active_space import live_collection, readable_collections, require_collection
from flowbed.index.datasets import UNREADABLE
from flowbed.index.versions import Manifest, newest_manifest, state
from flowbed.publish import PublishReport, kind_fault, open_publication
from flowbed.publish.records import read_record, write_record
from flowbed.records import Problem
from flowbed.records.names import is_store

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from flowbed.index.active_space import Live
    from flowbed.publish import PublishContext, Published
    from flowbed.publish.records import Record
    from flowbed.storage import Store

ON_COMMIT, MANUAL = "commit", "manual"
ALL = "*"
SECONDS = {"s": 1, "m": 60, "h": 3_600, "d": 86_400}


@dataclass(frozen=True, kw_only=True)
class Configured:
    """One publication of the settings: its name and kind, when it is due, its collections, and the options."""

    name: str
    kind: str
    every: str = ON_COMMIT
    collections: tuple[str, ...] = ()
    options: Mapping[str, str] = field(default_factory=dict)

    def covers(self, collection: str) -> bool:
        """Return whether a collection is published; a vector store only by its name, as it is its owner's."""
        return collection in self.collections or (ALL in self.collections and not is_store(collection))


def interval(every: str) -> float | None:
    """Return the seconds between two publications: 0 for every commit, None if they are only made by command.

    Raises:
        Misconfigured: `every` is not `commit`, `manual`, or a number with s, m, h or d.
    """
    if every == MANUAL:
        return None
    if every == ON_COMMIT:
        return 0.0
    found = re.fullmatch(r"(\d+)([smhd])", every)
    if found is None:
        raise Misconfigured(f'every is {every!r}; write "commit", "manual", or a time such as "30m" or "1h"')
    return float(int(found[1]) * SECONDS[found[2]])


async def publish(
    configured: Sequence[Configured],
    context_of: Callable[[str], PublishContext],
    collection: str | None = None,
    *,
    reconcile: bool = False,
) -> PublishReport:
    """Publish one collection, or all of every publication, now; one that fails does not stop the others.

    Raises:
        NotFound: there is no such collection.
        Misconfigured: no publication is configured for it.
    """
    chosen = [each for each in configured if collection is None or each.covers(collection)]
    if not chosen:
        what = collection or "NAME"
        raise Misconfigured(
            f"no publication of {collection or 'any collection'} is configured: add to flowbed.toml, for example,"
            f' [publish.{what}] with kind = "chroma"'
        )
    published: list[Published] = []
    problems: list[Problem] = []
    for each in chosen:
        if fault := kind_fault(each.name, each.kind):  # before a collection is missed that it may not need
            problems.append(Problem(subject=f"publication {each.name}", reason=fault))
            continue
        context = context_of(each.name)
        if collection is not None:
            lives = [await require_collection(context.store, collection)]
        else:
            found, damaged = await readable_collections(context.store)
            problems += [_failed(each, name, why) for name, why in damaged.items() if each.covers(name)]
            lives = [live for live in found if each.covers(live.collection)]
            there = {*damaged, *(live.collection for live in lives)}
            problems += [_missing(each, name) for name in each.collections if name not in {ALL, *there}]
        for live in lives:
            await _publish_into(each, context, live, published, problems, reconcile=reconcile)
    return PublishReport(published=tuple(published), failures=tuple(problems))


async def publish_due(
    configured: Sequence[Configured], context_of: Callable[[str], PublishContext]
) -> PublishReport:
    """Publish the collections that have a newer version than was published, where it is time for that."""
    published: list[Published] = []
    problems: list[Problem] = []
    for each in configured:
        if (seconds := interval(each.every)) is None:
            continue
        context = context_of(each.name)
        for name in await collections_of(each, context.store):
            try:
                live = await live_collection(context.store, name)
                due = live is not None and await _is_due(each, context, live, seconds)
            except UNREADABLE as error:
                problems.append(_failed(each, name, error))
                continue
            if live is not None and due:
                await _publish_into(each, context, live, published, problems, reconcile=False)
    return PublishReport(published=tuple(published), failures=tuple(problems))


async def last_published(
    configured: Sequence[Configured], context_of: Callable[[str], PublishContext]
) -> list[Record]:
    """Return what was published last, by publication and collection; asks no server."""
    found = []
    for each in configured:
        store = context_of(each.name).store
        names = await collections_of(each, store)
        found += [await read_record(store, name, each.name) for name in names]
    return [record for record in found if record is not None]


async def collections_of(each: Configured, store: Store) -> Sequence[str]:
    """Return the names of the collections that a publication has; some may not exist yet."""
    return await store.folders("") if ALL in each.collections else each.collections


def _failed(each: Configured, collection: str, why: object) -> Problem:
    return Problem(subject=f"publication {each.name} of {collection}", reason=str(why))


def _missing(each: Configured, collection: str) -> Problem:
    why = f"there is no collection {collection!r}: `flowbed run` has not filled it yet, or the name is wrong"
    return _failed(each, collection, why)


async def _is_due(each: Configured, context: PublishContext, live: Live, seconds: float) -> bool:
    record = await read_record(context.store, live.collection, each.name)
    if record is None or record.space != live.space.fingerprint:
        return True
    # A record of the future is from a machine whose clock is ahead: it must not stop publishing.
    if 0 <= context.clock() - record.at < seconds * 1e6:
        return False
    newest = await _newest(context, live)
    # An index that was dropped and filled again reaches the same numbers.
    other = record.manifest and newest.modified and record.manifest != newest.modified
    return record.version != newest.version or bool(other)


async def _newest(context: PublishContext, live: Live) -> Manifest:
    newest = await newest_manifest(live, store=context.store)
    if newest is None:
        return Manifest(version=(await state(live, datasets=context.datasets)).version, modified=0)
    return newest


async def _publish_into(
    each: Configured,
    context: PublishContext,
    live: Live,
    published: list[Published],
    problems: list[Problem],
    *,
    reconcile: bool,
) -> None:
    try:
        done = await _publish_one(each, context, live, reconcile=reconcile)
    except (Error, OSError) as error:  # a full disk or a folder that cannot be written stops this one only
        problems.append(_failed(each, live.collection, error))
    else:
        published.append(done)


async def _publish_one(
    each: Configured, context: PublishContext, live: Live, *, reconcile: bool
) -> Published:
    newest = await _newest(context, live)
    publication = open_publication(each.kind, context, each.options)
    try:
        work = publication.reconcile if reconcile else publication.publish
        done = await work(live, newest.version)
    finally:
        await publication.aclose()
    await write_record(
        context.store,
        done,
        space=live.space.fingerprint,
        manifest=newest.modified if done.version == newest.version else 0,
        now=context.clock(),
    )
    return done
