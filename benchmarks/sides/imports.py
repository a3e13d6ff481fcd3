"""Flowbed's side of imports: a Parquet file to import, and the imports."""

from __future__ import annotations

import asyncio
import resource
import time
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

import flowbed
from benchmarks.sides.rows import RowFiles
from benchmarks.sides.serve import serve
from flowbed.records import canonical
from flowbed.wiring.process import set_up

PAGE = 8_192
COLLECTION = "rows"


def write(path: str, rows: str, count: int) -> None:
    """Write the first `count` rows as a Parquet file."""
    files = RowFiles(rows)
    writer = None
    for start in range(0, count, PAGE):
        batch = files.batch(range(start, min(start + PAGE, count)))
        vectors = pa.FixedSizeListArray.from_arrays(pa.array(batch.vectors.ravel()), batch.vectors.shape[1])
        table = pa.table(
            {
                "id": list(batch.ids),
                "document": list(batch.documents),
                "metadata": [canonical(each).decode() for each in batch.metadata],
                "vector": vectors,
            }
        )
        writer = writer or pq.ParquetWriter(path, table.schema)
        writer.write_table(table)
    if writer is not None:
        writer.close()


def take(folder: str, place: str) -> dict[str, float]:
    """Import what is at a place into a new project; return the seconds, of CPU too, and the number of rows."""
    Path(folder).mkdir(parents=True)
    Path(folder, "flowbed.toml").write_text('model = "seeded:384"\n', encoding="utf-8")
    return asyncio.run(_take(Path(folder), place))


async def _take(folder: Path, place: str) -> dict[str, float]:
    async with await flowbed.aopen(folder) as bed:
        began, used = time.perf_counter(), _used()
        done = await bed.import_rows(place, collection=COLLECTION, check=False)
        return {"seconds": time.perf_counter() - began, "rows": done.written, "cpu": _used() - used}


def _used() -> float:
    """Return the CPU seconds of this process, and of those that it started and that have ended."""
    taken = (resource.getrusage(whose) for whose in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(each.ru_utime + each.ru_stime for each in taken)


if __name__ == "__main__":
    set_up()  # as the command does it
    serve({"write": write, "take": take})
