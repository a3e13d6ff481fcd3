"""Rows that filters are tried on, in Python and in Lance."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import lance
import pyarrow as pa
from tests.support.filtering import asked

from flowbed.index.schema import METADATA
from flowbed.index.search.filters import to_sql
from flowbed.records import canonical
from flowbed.testing.filters import fits

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path


class Rows:
    """Rows (metadata, document) in Python, and in Lance with only what a filter looks at."""

    def __init__(self, folder: Path, listed: Sequence[tuple[dict[str, Any], str]]) -> None:
        """Write the rows."""
        written = [canonical(metadata).decode() for metadata, _ in listed]
        table = pa.table(
            {
                "id": pa.array([_id(at) for at in range(len(listed))]),
                "at": pa.array(range(len(listed)), pa.int64()),
                "document": pa.array([document for _, document in listed]),
                "metadata": pa.ExtensionArray.from_storage(METADATA, pa.array(written)),
            }
        )
        self.listed = listed
        self.path = str(folder / "d.lance")
        lance.write_dataset(table, self.path, mode="overwrite", data_storage_version="2.2")

    def __repr__(self) -> str:
        """Say little: a failing example is printed whole."""
        return f"{len(self.listed)} rows"

    def found(self, where: Any) -> list[int]:
        """Ask Lance which rows a filter fits."""
        return asked().rows(self.path, to_sql(where))

    def expected(self, where: Any) -> list[int]:
        """Ask plain Python which rows a filter fits."""
        test = fits(where)
        return [
            at for at, (metadata, document) in enumerate(self.listed) if test(metadata, document, _id(at))
        ]


def _id(at: int) -> str:
    return f"row {at}'s"
