"""A million waiting chunks: found, claimed, counted, and cut into submissions for a provider's Batch API."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from benchmarks.million import write_records
from benchmarks.process import Side
from benchmarks.results import Figure, table

if TYPE_CHECKING:
    from benchmarks.results import Options

CHUNKS = 1_000_000


def measure(options: Options) -> dict[str, Any]:
    """Fetch records, and then find them in another process."""
    wanted = options.scaled(options.rows or CHUNKS, fewest=2_000)
    folder = options.work / "project"
    folder.mkdir()
    write_records(folder / "records.jsonl", wanted, options)
    with Side("finding") as side:
        fetched = side.ask("fetch", folder=folder)
    with Side("finding") as side:
        found = side.ask("find", folder=folder)
        memory = side.memory.peak
    if found["chunks"] != wanted:
        raise RuntimeError(f"{found['chunks']} of {wanted} chunks were found")
    inputs = list((folder / ".flowbed").rglob("input.jsonl"))
    size = sum(path.stat().st_size for path in inputs)
    return {"fetched": fetched, "found": found, "memory": memory, "size": size}


def figures(found: dict[str, Any]) -> list[Figure]:
    """Compare rate and memory with the targets."""
    run = found["found"]
    return [
        Figure(
            what=f"Finding {run['chunks']:,} waiting chunks and cutting them into submissions",
            value=run["chunks"] / run["seconds"],
            target=30_000,
            form="{:,.0f} chunks/s",
        ),
        Figure(
            what="Memory of it",
            value=found["memory"] / 1e6,
            target=500,
            at_most=True,
            form="{:,.0f} MB",
        ),
    ]


def section(found: dict[str, Any]) -> str:
    """Write what was measured."""
    run = found["found"]
    chunks = run["chunks"]
    parts = {
        "elapsed": run["seconds"],
        "CPU": run["worked"],
        "of which the event loop": run["own"],
    }
    lines: list[list[object]] = [
        [what, f"{seconds:,.1f}", f"{seconds / chunks * 1e6:,.1f}", f"{chunks / seconds:,.0f}"]
        for what, seconds in parts.items()
    ]
    return f"""## Finding waiting chunks

{chunks:,} records of JSON Lines, a distinct sentence each, were fetched and wait to be embedded. A new process claims
them, reads their texts, checks that no vector exists and no submission carries them, counts tokens, and writes
{run["submissions"]} submissions for the Batch API of `openai:text-embedding-3-small`: {run["texts"]:,} lines,
{run["tokens"]:,} tokens, {found["size"] / 1e6:,.0f} MB. The ledger is SQLite. On a busy machine, CPU seconds say more
than elapsed time.

{table(["", "seconds", "µs per chunk", "chunks/s"], lines)}

Peak memory of the process: {found["memory"] / 1e6:,.0f} MB.
"""
