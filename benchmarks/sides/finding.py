"""Flowbed's side of finding: one process fetches records, another gathers them into submissions."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import Any

import flowbed
from benchmarks.sides.serve import serve
from flowbed.wiring.process import set_up

# Finding never calls the provider: nothing listens at this address.
SETTINGS = """\
model = "openai:text-embedding-3-small"
[providers.openai]
api_key = "none"
base_url = "http://127.0.0.1:9/v1"
batch_tokens = "1000000000"
[sources.records]
kind = "jsonl"
location = "records.jsonl"
"""


def fetch(folder: str) -> dict[str, Any]:
    """Fetch the records of a project, and embed none."""
    Path(folder, "flowbed.toml").write_text(SETTINGS, encoding="utf-8")
    return asyncio.run(_fetch(folder))


async def _fetch(folder: str) -> dict[str, Any]:
    async with await flowbed.aopen(folder) as bed:
        began = time.perf_counter()
        report = await bed.run(limit=0)
        return {"seconds": time.perf_counter() - began, "waiting": report.waiting}


def find(folder: str) -> dict[str, Any]:
    """Find, claim and count all waiting chunks, cut them into submissions, and write these."""
    set_up()  # as the command does it
    return asyncio.run(_find(folder))


async def _find(folder: str) -> dict[str, Any]:
    async with await flowbed.aopen(folder) as bed:
        began, worked, own = time.perf_counter(), time.process_time(), time.thread_time()
        found = await bed.find_unembedded()
        return {
            "seconds": time.perf_counter() - began,
            "worked": time.process_time() - worked,
            "own": time.thread_time() - own,
            "submissions": len(found.submissions),
            "chunks": found.chunks,
            "texts": found.texts,
            "tokens": found.tokens,
        }


if __name__ == "__main__":
    serve({"fetch": fetch, "find": find})
