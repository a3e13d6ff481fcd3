"""What DuckDB, pandas and Polars read of published Parquet files: `tables.py FOLDER`, as JSON."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import duckdb
import pandas as pd
import polars as pl

QUERY = "SELECT id, document, metadata->>'merchant_name' FROM 'lines/parquet/*.parquet' LIMIT 5;"


def main(folder: str) -> None:
    """Read the files below the store of a project with each of them."""
    (file,) = Path(folder).glob("lines/parquet/*.parquet")
    framed, polar = pd.read_parquet(file), pl.read_parquet(file)
    database = duckdb.connect(config={"file_search_path": folder})
    found = {
        "duckdb": sorted(database.execute(QUERY).fetchall()),
        "pandas": framed.sort_values("id")[["id", "document", "metadata"]].to_numpy().tolist(),
        "polars": sorted(polar.select("id", "document", "metadata").rows()),
        "vectors": [
            [len(each) for each in framed["vector"]],
            polar["vector"].list.len().to_list(),
            [row[0] for row in database.from_parquet(str(file)).project("len(vector)").fetchall()],
        ],
    }
    sys.stdout.write(json.dumps(found))


if __name__ == "__main__":
    main(sys.argv[1])
