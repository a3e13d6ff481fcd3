"""A million records: memory, a constant rate, and a second run that finds nothing to do."""

from __future__ import annotations

import json
import shutil
from typing import TYPE_CHECKING, Any

import numpy as np

from benchmarks.process import Side
from benchmarks.results import Figure, table
from benchmarks.vectors import rows_of

if TYPE_CHECKING:
    from pathlib import Path

    from benchmarks.results import Options

ROWS = 1_000_000
ROWS_384 = 250_000


def measure(options: Options) -> dict[str, Any]:
    """Index records with vectors of 64 and of 384 dimensions; run again, unchanged, and with the file rewritten."""
    found = {}
    for dimensions, count in ((64, options.rows or ROWS), (384, options.rows_384 or ROWS_384)):
        wanted = options.scaled(count, fewest=2_000)
        file = options.work / f"records-{dimensions}.jsonl"
        write_records(file, wanted, options)
        folder = options.work / f"bed-{dimensions}"
        runs = {"first": _run(folder, file, dimensions)}
        if dimensions == 64:
            runs["unchanged"] = _run(folder, file, dimensions)
            shutil.copyfile(file, file.with_suffix(".new"))
            file.with_suffix(".new").replace(file)
            runs["rewritten"] = _run(folder, file, dimensions)
        size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
        found[str(dimensions)] = {"rows": wanted, "runs": runs, "size": size, "file": file.stat().st_size}
        shutil.rmtree(folder)
    return {"found": found}


def figures(found: dict[str, Any]) -> list[Figure]:
    """Compare the million of 64 dimensions with its targets."""
    small = found["found"]["64"]
    first, again = small["runs"]["first"], small["runs"]["rewritten"]
    rows = small["rows"]
    return [
        Figure(
            what=f"{rows:,} records, 64 dimensions: memory of all processes",
            value=first["memory"] / 1e9,
            target=1,
            at_most=True,
            form="{:.2f} GB",
        ),
        Figure(
            what="Rate of the last tenth against the first, without compaction",
            value=_held(first),
            target=0.8,
            form="{:.2f}",
        ),
        Figure(
            what="Running again, with every record read and none changed",
            value=rows / again["seconds"],
            target=30_000,
            form="{:,.0f} rows/s",
        ),
        Figure(
            what="Texts embedded by it",
            value=again["report"]["embedded"],
            target=0,
            at_most=True,
            form="{:.0f}",
        ),
    ]


def section(found: dict[str, Any]) -> str:
    """Write what was measured."""
    lines, rates = [], []
    for dimensions, each in found["found"].items():
        for what, run in each["runs"].items():
            lines.append(
                [
                    f"{each['rows']:,} of {dimensions} dimensions, {what}",
                    f"{run['seconds']:,.1f}",
                    f"{run['compaction']:,.1f}",
                    f"{each['rows'] / run['seconds']:,.0f}",
                    f"{run['memory'] / 1e6:,.0f}",
                    f"{run['report']['embedded']:,}",
                ]
            )
        for stage, tenths in each["runs"]["first"]["tenths"].items():
            if tenths:
                rates.append([f"{dimensions} dimensions, {stage}", *(f"{rate:,.0f}" for rate in tenths)])
    sizes = "; ".join(
        f"{dimensions} dimensions: {each['file'] / 1e6:,.0f} MB of JSON became {each['size'] / 1e6:,.0f} MB"
        for dimensions, each in found["found"].items()
    )
    heads = ["", "seconds", "of which compaction", "rows/s", "memory, MB", "embedded"]
    return f"""## A million records

Records of JSON Lines, a distinct sentence each. Their vectors are computed from the text (`seeded:64`), so this
measures Flowbed and not a model. Fetching, chunking, ledger, embedding, commits, vector index and compaction run in one
process tree, whose resident memory is counted together. "Unchanged" runs again over the same file;
"rewritten" over a copy in its place, so that every record is read and compared.

{table(heads, lines)}

Rows per second in each tenth of a run, without compaction; the figure above is the lowest ratio of the stages:

{table(["stage", *(str(tenth) for tenth in range(1, 11))], rates)}

On disk, including deltas and cache: {sizes}.
"""


def _held(run: dict[str, Any]) -> float:
    """Return the lowest ratio of last to first tenth among the stages."""
    return min(tenths[-1] / tenths[0] for tenths in run["tenths"].values() if tenths)


def _run(folder: Path, file: Path, dimensions: int) -> dict[str, Any]:
    with Side("flowbed_texts") as side:
        run = side.ask("records", folder=folder, file=file, model=f"seeded:{dimensions}")
        if run["report"]["failed"]:
            raise RuntimeError(f"{run['report']['failed']} records failed")
        return {**run, "memory": side.memory.peak}


def write_records(file: Path, count: int, options: Options) -> None:
    """Write records: sentences of the test data, each followed by its number."""
    data = rows_of(options.data, 2_000, texts=600)
    texts = json.loads((data.folder / "texts.json").read_text("utf-8"))
    chosen = np.random.default_rng(5).integers(0, len(texts), count)
    with file.open("w", encoding="utf-8") as written:
        for row, at in enumerate(chosen):
            record = {"id": f"{row:07d}", "text": f"{texts[at]} {row}"}
            written.write(json.dumps(record) + "\n")
