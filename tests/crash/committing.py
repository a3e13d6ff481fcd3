"""A process that commits deltas of ids that others commit too: `committing.py FOLDER NUMBER` prints what it wrote."""

from __future__ import annotations

import asyncio
import json
import random
import sys
from pathlib import Path
from time import time_ns

from flowbed.index.active_space import Collections
from flowbed.index.commit import commit
from flowbed.index.datasets import Datasets
from flowbed.index.deltas import Delete, Upsert, write_delta
from flowbed.ledger import RunRow, open_ledger
from flowbed.records import Space, run_id, text_hash
from flowbed.storage import open_store
from flowbed.testing.embedder import seeded

SPACE = Space(model="seeded:8", dimensions=8)
IDS, ROUNDS, ROWS = 80, 8, 30


async def main(folder: Path, number: int) -> list[tuple[str, int, str, bool]]:
    """Write a delta and commit all pending ones, repeatedly."""
    chance = random.Random(number)
    store = open_store(str(folder / "store"), folder=folder)
    ledger = await open_ledger("ledger.db", folder=folder, new_id="ledger")
    datasets = Datasets(store)
    written: list[tuple[str, int, str, bool]] = []
    for turn in range(ROUNDS):
        keys = [f"id-{key:03d}" for key in chance.sample(range(IDS), ROWS)]
        # Older and newer versions come in any order; no two processes write the same version of an id.
        versions = {key: chance.randrange(1, 1_000) * 10 + number for key in keys}
        gone = set(chance.sample(keys, ROWS // 5))
        rows = [(key, versions[key], key in gone, "" if key in gone else text_hash(key)) for key in keys]
        run = run_id("shared", SPACE, rows)
        vectors = seeded(keys, SPACE.dimensions)
        upserts = [
            Upsert(
                id=key,
                version=versions[key],
                document=f"{key} at {versions[key]} of {run}",
                metadata={"turn": turn},
                text_hash=text_hash(key),
                vector=vector,
            )
            for key, vector in zip(keys, vectors, strict=True)
            if key not in gone
        ]
        deletes = [Delete(id=key, version=versions[key]) for key in sorted(gone)]
        delta = await write_delta(store, "shared", SPACE, upserts, deletes, now=time_ns() // 1000)
        assert delta.run == run
        row = RunRow(
            id=run,
            collection="shared",
            space=SPACE.to_json(),
            key=delta.key,
            sha256=delta.sha256,
            rows=delta.rows,
            lane="realtime",
            worker=str(number),
            created=time_ns() // 1000,
        )
        await ledger.runs.record(row, [], worker=str(number))
        committed = await commit(
            "shared",
            store=store,
            ledger=ledger,
            collections=Collections(store),
            datasets=datasets,
            clock=lambda: time_ns() // 1000,
        )
        assert committed.refused == ()
        written += [(key, versions[key], run, key in gone) for key in keys]
    await ledger.close()
    return written


if __name__ == "__main__":
    sys.stdout.write(json.dumps(asyncio.run(main(Path(sys.argv[1]), int(sys.argv[2])))))
