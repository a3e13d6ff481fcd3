"""Verifies that index, ledger and store agree, and repairs what does not."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from flowbed.maintenance.compare import find, known_collections, require_known
from flowbed.maintenance.repair import repair as repair_collection

if TYPE_CHECKING:
    from collections.abc import Collection

    from flowbed.lanes.contexts import IndexContext
    from flowbed.maintenance.inconsistencies import Fault
    from flowbed.maintenance.repair import Repaired


@dataclass(frozen=True, kw_only=True)
class Verified:
    """The verification of one collection: its live `rows` and `chunks` were compared in `seconds`."""

    rows: int
    chunks: int
    deltas: int
    seconds: float
    faults: tuple[Fault, ...]
    repaired: Repaired | None = None

    @property
    def rows_per_second(self) -> float:
        """The speed of the comparison."""
        return self.rows / self.seconds if self.seconds else 0.0


async def verify(
    context: IndexContext,
    collections: Collection[str] = (),
    *,
    repair: bool = False,
    allow_deletes: bool = False,
) -> dict[str, Verified]:
    """Compare index, ledger and store, of the named collections or of all.

    With `repair`, faults are fixed: chunks whose rows are missing or wrong wait for the next run, and rows without a
    chunk are removed, unless there are so many that it may be a mistake and `allow_deletes` is not given.

    Raises:
        NotFound: there is no collection of that name.
    """
    await require_known(context, collections)
    done = {}
    for name in collections or await known_collections(context):
        began = context.monotonic()
        found = await find(context, name)
        repaired = None
        if repair and found.faults:
            repaired = await repair_collection(context, name, found, allow_deletes=allow_deletes)
        done[name] = Verified(
            rows=found.live,
            chunks=found.chunks,
            deltas=found.deltas,
            seconds=context.monotonic() - began,
            faults=found.summary,
            repaired=repaired,
        )
    return done


async def find_faults(context: IndexContext, collection: str, *, rows: bool) -> tuple[Fault, ...]:
    """Find the faults of a collection; without `rows`, read only the ids of rows and no deltas."""
    return (await find(context, collection, rows=rows)).summary
