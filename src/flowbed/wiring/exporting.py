"""Exports rows of a project into a path on this machine."""

from __future__ import annotations

from typing import TYPE_CHECKING

from flowbed.errors import Rejected
from flowbed.index.search.filters import to_sql
from flowbed.index.versions.changes import selection
from flowbed.publish.exporting import KINDS, export
from flowbed.wiring.publications import publish_context
from flowbed.wiring.scratch import scratch

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path
    from typing import Any

    from flowbed.index.active_space import Live
    from flowbed.index.datasets import Datasets
    from flowbed.publish.exporting import Exported, Kind
    from flowbed.storage import Store


async def export_rows(
    live: Live,
    datasets: Datasets,
    store: Store,
    *,
    folder: Path,
    to: Kind,
    path: Path,
    at: int | None,
    where: Mapping[str, Any] | None,
    vectors: bool,
) -> Exported:
    """Export the rows of a version that match a filter; a relative path is below the current folder.

    Raises:
        NotFound, Rejected, Misconfigured, OutOfSpace: as `Flowbed.export`.
    """
    if to not in KINDS:
        raise Rejected(f"rows cannot be exported to {to!r}; choose {', '.join(KINDS[:-1])} or {KINDS[-1]}")
    found = await selection(live, at, to_sql(where), datasets=datasets)
    with scratch(folder) as place:
        context = publish_context("export", hidden=place, store=store, datasets=datasets)
        return await export(live, found, to, path, vectors=vectors, context=context)
