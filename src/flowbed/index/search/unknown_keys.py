"""Which keys of a filter no row has, after a search that found nothing."""

from __future__ import annotations

from dataclasses import dataclass, field
from difflib import get_close_matches
from functools import partial
from typing import TYPE_CHECKING, Any

import orjson

from flowbed.index.search.filter_sql import has_key
from flowbed.index.search.filters import keys_of

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from flowbed.index.active_space import Live
    from flowbed.index.datasets import Datasets
    from flowbed.index.native import Dataset

# Rows whose keys are shown: of each source there are many more.
SAMPLE = 1_000
# Keys that are looked for in all rows, and keys that a message lists.
SOUGHT, LISTED = 3, 20


@dataclass
class _Keys:
    """The keys of a filter that no row is known to have, and keys that rows have."""

    missing: list[str]
    there: set[str] = field(default_factory=set)


async def unknown_keys(
    where: Mapping[str, Any], collections: Sequence[Live], *, datasets: Datasets, at: int | None
) -> tuple[str, ...]:
    """Name the first few keys of a valid filter that no row of the collections has, with the keys that there are."""
    keys = _Keys(keys_of(where))
    for live in collections:
        if keys.missing:
            await datasets.reading(live, partial(_look, keys=keys), version=at)
    if not keys.there:
        return ()
    listed = ", ".join(sorted(keys.there)[:LISTED]) + (", ..." if len(keys.there) > LISTED else "")
    return tuple([_message(key, keys.there, listed) for key in keys.missing])


def _look(dataset: Dataset, keys: _Keys) -> None:
    """Read the keys of some rows; look for those of the filter that these lack in all rows."""
    some = dataset.scanner(columns=["metadata"], filter="deleted = false", limit=SAMPLE).to_pyarrow()
    for batch in some:
        for metadata in batch["metadata"].to_pylist():
            keys.there.update(orjson.loads(metadata))
    sought = [key for key in keys.missing if key not in keys.there][:SOUGHT]
    keys.missing = [key for key in sought if not _is_there(dataset, key)]


def _is_there(dataset: Dataset, key: str) -> bool:
    condition = f"deleted = false AND {has_key(key)}"
    found = dataset.scanner(columns=[], filter=condition, with_row_id=True, limit=1).to_pyarrow().read_all()
    return bool(found.num_rows)


def _message(key: str, there: set[str], listed: str) -> str:
    near = get_close_matches(key[:100], there, n=1)
    meant = f"did you mean {near[0]!r}? " if near else ""
    shown = key if len(key) <= 100 else f"{key[:100]}..."  # noqa: PLR2004 - of a line
    return f"no row has the metadata key {shown!r}: {meant}rows have {listed}"
