"""Garbage collection: deletes stored objects that nothing needs, after a second look."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from flowbed.maintenance.compare import require_known
from flowbed.maintenance.garbage import (
    BATCH,
    DATASET,
    DELTA,
    GRACE,
    PLAN,
    SNAPSHOT,
    SUBMISSION,
    Garbage,
    find_garbage,
)
from flowbed.pipeline.staging import PLANS, drop_plans
from flowbed.publish.chroma.garbage import delete_snapshot
from flowbed.telemetry import GARBAGE_DELETED, GARBAGE_MARKED, reached

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence
    from datetime import timedelta

    from flowbed.lanes.contexts import IndexContext
    from flowbed.records import Problem
    from flowbed.storage import Store

# Objects to delete at once: the limit of one S3 request.
AT_ONCE = 1_000


@dataclass
class Collected:
    """What was deleted, or would be: objects and bytes by kind.

    `failures` are the collections whose index cannot be read: nothing of them is deleted.
    """

    dry_run: bool
    objects: dict[str, int] = field(default_factory=dict)
    bytes: dict[str, int] = field(default_factory=dict)
    failures: list[Problem] = field(default_factory=list)

    def add(self, garbage: Garbage) -> None:
        """Count one piece of garbage."""
        self.objects[garbage.kind] = self.objects.get(garbage.kind, 0) + garbage.objects
        self.bytes[garbage.kind] = self.bytes.get(garbage.kind, 0) + garbage.bytes


async def collect(
    context: IndexContext,
    collections: Collection[str] = (),
    *,
    dry_run: bool = False,
    grace: timedelta = GRACE,
) -> Collected:
    """Delete what nothing needs: of the named collections, or of the whole project with its batch files and plans.

    Safe beside runs: objects younger than `grace` are kept, and the others are checked twice before they are deleted.
    Safe to repeat and to interrupt.

    Raises:
        NotFound: there is no collection of that name.
    """
    await require_known(context, collections)
    done = Collected(dry_run=dry_run)
    failures: dict[str, Problem] = {}
    marked = [each async for each in find_garbage(context, collections, grace=grace, failures=failures)]
    reached(GARBAGE_MARKED, things=len(marked))
    if dry_run:
        for each in marked:
            done.add(each)
        done.failures += failures.values()
        return done
    # Checked again, since runs may have started meanwhile.
    second = (
        {each.key: each async for each in find_garbage(context, collections, grace=grace, failures=failures)}
        if marked
        else {}
    )
    done.failures += failures.values()
    confirmed = [second[each.key] for each in marked if each.key in second]
    for start in range(0, len(confirmed), AT_ONCE):
        page = confirmed[start : start + AT_ONCE]
        await _delete(context.store, page)
        for each in page:
            done.add(each)
    return done


async def _delete(store: Store, page: Sequence[Garbage]) -> None:
    for each in page:
        if each.kind == PLAN:
            await drop_plans(store, [each.key.removeprefix(f"{PLANS}/")])
        elif each.kind == SNAPSHOT:
            await delete_snapshot(store, each.key)
        elif each.kind in {DATASET, SUBMISSION}:
            await _delete_below(store, each.key)
    keys = [each.key for each in page if each.kind in {DELTA, BATCH}]
    if keys:
        await store.delete(keys)
    if page:
        reached(GARBAGE_DELETED, things=len(page))


async def _delete_below(store: Store, prefix: str) -> None:
    keys = [listed.key async for listed in store.list(prefix)]
    for start in range(0, len(keys), AT_ONCE):
        await store.delete(keys[start : start + AT_ONCE])
