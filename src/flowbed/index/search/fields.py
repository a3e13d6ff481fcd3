"""Which metadata a collection has: its keys, their types and their commonest values, counted in bounded memory."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import orjson

from flowbed.errors import Rejected
from flowbed.index.search.filters import to_sql
from flowbed.index.search.nearest import EVERY
from flowbed.index.search.rows import LIVING

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from flowbed.index.active_space import Live
    from flowbed.index.datasets import Datasets
    from flowbed.index.native import Dataset
    from flowbed.records import Scalar

# Rows that are read: all of up to this many, and of more as many, spread evenly. They take 0.4 s of CPU.
READ = 100_000
# Values that are counted at a time, of all keys together; the rarest are dropped beyond. Some 30 MB.
COUNTED = 200_000
# Keys, and characters of a value, that are counted; longer texts are no choices.
KEYS, LENGTH = 1_000, 200
MOST_VALUES = 1_000  # of each key that are returned
BATCH = 4_096  # rows in memory
GOLDEN = 0.618_034  # its multiples lie evenly between whole numbers


@dataclass(frozen=True, kw_only=True)
class FieldValue:
    """A value of a key, and the rows that have it."""

    value: Scalar
    rows: int


@dataclass(frozen=True, kw_only=True)
class Field:
    """A key of metadata, of the rows that were read: how many have it, and its values by type, the commonest first.

    Types are `text`, `number` and `boolean`. `distinct` is how many values there are; None if they were too many, or
    too long, to count them all: then a value may be in a few more rows. `least` and `most` are of the numbers.
    """

    name: str
    rows: int
    types: Mapping[str, int]
    values: tuple[FieldValue, ...]
    distinct: int | None
    least: float | None = None
    most: float | None = None


@dataclass(frozen=True, kw_only=True)
class Fields:
    """The fields of the live rows of a version, the commonest first; `read` of its `rows` were read, evenly spread."""

    collection: str
    version: int
    rows: int
    read: int
    fields: tuple[Field, ...]


@dataclass
class _Counted:
    """What was counted of one key; values are keyed with their types, as 1 and true are equal in Python."""

    rows: int = 0
    types: Counter[str] = field(default_factory=Counter)
    values: Counter[tuple[str, Any]] = field(default_factory=Counter)
    whole: bool = True
    least: float | None = None
    most: float | None = None


class _Tally:
    """Counts the metadata of rows; `READ` rows of `KEYS` keys each at most, so the memory is bounded."""

    def __init__(self) -> None:
        self.keys: dict[str, _Counted] = {}
        self._values = 0

    def add(self, metadata: Mapping[str, Any]) -> None:
        """Count one row."""
        for name, value in metadata.items():
            if value is None:
                continue  # as if the key were missing, as filters have it
            counted = self.keys.get(name)
            if counted is None:
                if len(self.keys) == KEYS:
                    continue
                counted = self.keys[name] = _Counted()
            self._count(counted, value)
        if self._values > COUNTED:
            self._drop_rare()

    def _count(self, counted: _Counted, value: Any) -> None:
        kind = _type_of(value)
        counted.rows += 1
        counted.types[kind] += 1
        if kind == "number":
            counted.least = value if counted.least is None else min(counted.least, value)
            counted.most = value if counted.most is None else max(counted.most, value)
        if kind == "text" and len(value) > LENGTH:
            counted.whole = False
            return
        before = len(counted.values)
        counted.values[kind, value] += 1
        self._values += len(counted.values) - before

    def _drop_rare(self) -> None:
        """Keep the commonest values of each key, half as many as there may be."""
        room = COUNTED // 2 // len(self.keys)
        for counted in self.keys.values():
            if len(counted.values) > room:
                counted.values = Counter(dict(counted.values.most_common(room)))
                counted.whole = False
        self._values = sum(len(counted.values) for counted in self.keys.values())


def _type_of(value: Any) -> str:
    if isinstance(value, bool):
        return "boolean"
    return "number" if isinstance(value, int | float) else "text"


async def fields(
    live: Live, *, datasets: Datasets, where: Mapping[str, Any] | None = None, values: int = 10
) -> Fields:
    """Count the metadata of the live rows that match `where`, and return up to `values` values of each key.

    Raises:
        Rejected: the filter or the number of values is invalid.
    """
    if not 1 <= values <= MOST_VALUES:
        raise Rejected(f"values is {values}; ask for 1 to {MOST_VALUES:,} values of each key")
    condition = to_sql(where)
    chosen = LIVING if condition == EVERY else f"{LIVING} AND {condition}"

    def count(dataset: Dataset) -> tuple[int, int, _Tally]:
        rows, read, tally = dataset.count_rows(chosen), 0, _Tally()
        for metadata in _spread(dataset, chosen, step=max(1, -(-rows // READ))):
            tally.add(orjson.loads(metadata) if metadata else {})
            read += 1
        return rows, read, tally

    answer = await datasets.reading(live, count)
    if answer is None:
        return Fields(collection=live.collection, version=0, rows=0, read=0, fields=())
    (rows, read, tally), version = answer
    found = sorted(tally.keys.items(), key=lambda each: (-each[1].rows, each[0]))
    return Fields(
        collection=live.collection,
        version=version,
        rows=rows,
        read=read,
        fields=tuple(_field(name, counted, values) for name, counted in found),
    )


def _spread(dataset: Dataset, condition: str, *, step: int) -> Iterator[str | None]:
    """Yield the metadata of one of every `step` rows, reading a batch of rows at a time."""
    scanner = dataset.scanner(columns=["metadata"], filter=condition, batch_size=BATCH, batch_readahead=2)
    before = taken = 0
    for batch in scanner.to_pyarrow():
        column = batch["metadata"]
        # Another one of each `step`, spread evenly: what repeats every few rows would otherwise hide.
        while (chosen := taken * step + int(taken * GOLDEN % 1 * step)) < before + len(column):
            yield column[chosen - before].as_py()
            taken += 1
        before += len(column)


def _field(name: str, counted: _Counted, values: int) -> Field:
    common = sorted(counted.values.items(), key=lambda each: (-each[1], each[0][0], each[0][1]))[:values]
    return Field(
        name=name,
        rows=counted.rows,
        types=dict(counted.types.most_common()),
        values=tuple(FieldValue(value=value, rows=rows) for (_, value), rows in common),
        distinct=len(counted.values) if counted.whole else None,
        least=counted.least,
        most=counted.most,
    )
