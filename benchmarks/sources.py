"""Messages per second of the readers of exports and of the chunker of conversations, on one core, without a model.

The messages are those of a real workspace, again and again at later times. Tokens are counted by the tokenizer of the
local model, which is what chunking costs most.
"""

from __future__ import annotations

import asyncio
import json
import statistics
import time
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from benchmarks.embedder import MODEL
from benchmarks.results import Figure, table
from benchmarks.vectors import MODELS
from flowbed.chunking import Rules, chunk
from flowbed.embedding import open_embedder
from flowbed.sources import open_source

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from benchmarks.results import Options
    from flowbed.records import Document

MESSAGES, ROUNDS = 50_000, 3
READ_TARGET, CHUNK_TARGET = 20_000.0, 5_000.0
DAY = 86_400


def measure(options: Options) -> dict[str, Any]:
    """Write an export, read it, and chunk its documents."""
    wanted = options.scaled(MESSAGES, fewest=2_000)
    messages = _messages(options.data / "slack-export-racket", wanted)
    export = options.work / "export"
    _write(export, messages)
    count = open_embedder(MODEL, cache=MODELS, options={}).count
    rules = Rules(source="s", collections=("c",))
    reads, chunks, made = [], [], 0
    for _ in range(options.rounds or ROUNDS):
        began = time.process_time()
        documents = asyncio.run(_read(export))
        reads.append(time.process_time() - began)
        began = time.process_time()
        made = sum(len(chunk(document, rules, count)) for document in documents)
        chunks.append(time.process_time() - began)
    return {
        "messages": len(messages),
        "documents": len(documents),
        "chunks": made,
        "read": len(messages) / statistics.median(reads),
        "chunk": len(messages) / statistics.median(chunks),
    }


def figures(found: dict[str, Any]) -> list[Figure]:
    """Return the figures with targets."""
    return [
        Figure(
            what="messages of a Slack export read in a second, on one core",
            value=found["read"],
            target=READ_TARGET,
            form="{:,.0f}",
        ),
        Figure(
            what="messages of conversations chunked in a second, on one core",
            value=found["chunk"],
            target=CHUNK_TARGET,
            form="{:,.0f}",
        ),
    ]


def section(found: dict[str, Any]) -> str:
    """Describe what was measured."""
    lines = [
        ["the export read: files, threads, days, texts", f"{found['read']:,.0f}"],
        ["conversations chunked, with tokens counted", f"{found['chunk']:,.0f}"],
    ]
    return f"""## Sources

An export of {found["messages"]:,} messages of a real workspace became {found["documents"]:,} documents and
{found["chunks"]:,} chunks. Times are those of the processor, so that other work on the machine does not count, without
embedding.

{table(["step", "messages per second"], lines)}
"""


def _messages(export: Path, wanted: int) -> list[dict[str, Any]]:
    """Return real messages, again and again at later times."""
    files = sorted(export.glob("*/*.json"))
    real = [each for path in files for each in json.loads(path.read_text("utf-8"))]
    first, last = float(real[0]["ts"]), float(real[-1]["ts"])
    span = int(last - first) + DAY
    found: list[dict[str, Any]] = []
    while len(found) < wanted:
        shift = len(found) // len(real) * span
        for each in real[: wanted - len(found)]:
            seconds, _, counter = each["ts"].partition(".")
            found.append({**each, "ts": f"{int(seconds) + shift}.{counter}"})
    return found


def _write(folder: Path, messages: Sequence[dict[str, Any]]) -> None:
    (folder / "general").mkdir(parents=True)
    (folder / "channels.json").write_text(json.dumps([{"id": "C1", "name": "general"}]))
    (folder / "users.json").write_text("[]")
    by_day: dict[str, list[dict[str, Any]]] = {}
    for each in messages:
        day = datetime.fromtimestamp(int(each["ts"].partition(".")[0]), UTC)
        by_day.setdefault(f"{day:%Y-%m-%d}", []).append(each)
    for day, some in by_day.items():
        (folder / "general" / f"{day}.json").write_text(json.dumps(some))


async def _read(export: Path) -> list[Document]:
    source = open_source("slack", str(export), folder=export, options={}, clock=lambda: 2**60)
    return [entry.read() async for page in source.fetch("") for entry in page.entries]
