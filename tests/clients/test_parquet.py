"""Published Parquet files are read by DuckDB, as docs/chroma.md says it, by pandas and by Polars."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

from tests.clients.conftest import SEEDED
from tests.clients.test_chroma import TIMEOUT

import flowbed

if TYPE_CHECKING:
    from collections.abc import Callable

HERE = Path(__file__).parent
DOCS = HERE.parent.parent / "docs" / "chroma.md"


def test_published_parquet_file_is_read_by_duckdb_pandas_and_polars(
    tmp_path: Path, installed: Callable[[str], Path]
) -> None:
    lines = [{"id": f"line-{n}", "text": f"TOTAL {n}", "merchant_name": f"Shop {n}"} for n in range(3)]
    (tmp_path / "lines.jsonl").write_text("\n".join(map(json.dumps, lines)))
    (tmp_path / "flowbed.toml").write_text(
        f'model = "{SEEDED}"\n[sources.lines]\nkind = "jsonl"\nlocation = "lines.jsonl"\n'
        'options = { metadata = ["merchant_name"] }\n[publish.lines]\nkind = "parquet"\n'
    )
    with flowbed.open(tmp_path) as bed:
        assert bed.run().failed == 0
        rows = sorted((hit.id, hit.document) for hit in bed.search("TOTAL", limit=9))
    script, store = HERE / "tables.py", tmp_path / ".flowbed" / "store"
    done = subprocess.run(
        [str(installed("python/bin/python")), str(script), str(store)],
        capture_output=True,
        text=True,
        timeout=TIMEOUT,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["duckdb"] == [[*row, f"Shop {n}"] for n, row in enumerate(rows)]
    for package in ("pandas", "polars"):
        assert [tuple(row[:2]) for row in found[package]] == rows
        assert [json.loads(row[2])["merchant_name"] for row in found[package]] == [
            "Shop 0",
            "Shop 1",
            "Shop 2",
        ]
    assert found["vectors"] == [[64, 64, 64]] * 3
    (query,) = (line for line in script.read_text().splitlines() if line.startswith("QUERY"))
    assert query.partition('"')[2].rstrip('"') in DOCS.read_text("utf-8")
