"""Verify: the proof that index, ledger and store agree, and the repair of what does not."""

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
    """What the proof of one collection came to: `rows` and `chunks` were held against each other in `seconds`."""

    rows: int
    chunks: int
    deltas: int
    seconds: float
    faults: tuple[Fault, ...]
    repaired: Repaired | None = None

    @property
    def rows_per_second(self) -> float:
        """How fast it went."""
        return self.rows / self.seconds if self.seconds else 0.0


async def verify(
    context: IndexContext,
    collections: Collection[str] = (),
    *,
    repair: bool = False,
    allow_deletes: bool = False,
) -> dict[str, Verified]:
    """Hold index, ledger and store against each other, in the collections named or in all.

    With `repair`, what can be mended is: chunks whose rows are missing or wrong wait for the next run, and rows that no
    chunk stands behind are taken out, unless they are so many that this is doubtful and `allow_deletes` is not given.

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
            rows=found.rows,
            chunks=found.chunks,
            deltas=found.deltas,
            seconds=context.monotonic() - began,
            faults=found.summary,
            repaired=repaired,
        )
    return done


async def find_faults(context: IndexContext, collection: str, *, rows: bool) -> tuple[Fault, ...]:
    """Look for what is wrong with a collection; without `rows`, only for what can be seen from their ids."""
    return (await find(context, collection, rows=rows)).summary
