"""Odd files with fixed seeds: each becomes documents or named problems, and what becomes a chunk can be read back."""

from __future__ import annotations

import tracemalloc
from functools import partial
from random import Random
from typing import TYPE_CHECKING

import orjson
import pytest
from tests.support.odd_files import odd_lines, odd_receipt, odd_record, odd_text

from flowbed.chunking import Rules, chunk
from flowbed.errors import Rejected
from flowbed.lanes.batch_files import encode_batch
from flowbed.ledger import BatchRow
from flowbed.sources import open_source
from flowbed.testing.sources import entries, pages

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

KINDS: dict[str, tuple[str, Callable[[Random], bytes]]] = {
    "files": ("a.md", odd_text),
    "jsonl": ("a.jsonl", partial(odd_lines, record=odd_record)),
    "receipts": ("a.json", partial(odd_lines, record=odd_receipt)),
}
OPTIONS = {"jsonl": {"metadata": ["n", "a.b"]}}

# A page, its chunks and what a parser makes of 100 KB; not a multiple of all files together.
MOST_BYTES = 60_000_000


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("examples", [50, pytest.param(10_000, marks=pytest.mark.long)])
async def test_odd_file_becomes_documents_or_problems(tmp_path: Path, kind: str, examples: int) -> None:
    """No file ends a fetch; everything in it is a document or a named problem, and its chunks fit into a batch file."""
    name, made = KINDS[kind]
    rules = Rules(source="s", collections=("lines", "words"))
    options = OPTIONS.get(kind, {})
    documents = problems = 0
    tracemalloc.start()
    try:
        for seed in range(examples):
            (tmp_path / name).write_bytes(made(Random(seed)))
            source = open_source(kind, name, folder=tmp_path, options=options, clock=lambda: 2**60)
            fetched = await pages(source)
            reasons = [problem.reason for page in fetched for problem in page.problems]
            chunks = []
            for entry in entries(fetched):
                try:
                    chunks += chunk(entry.read(), rules, lambda text: len(text.split()))
                    documents += 1
                except Rejected as error:
                    reasons.append(str(error))
            problems += len(reasons)
            assert all(0 < len(reason) < 500 for reason in reasons), seed
            assert all(problem.subject for page in fetched for problem in page.problems), seed
            row = BatchRow(id="b", source="s", key="k", timestamp=0, chunks=len(chunks))
            back = orjson.loads(encode_batch(row, chunks, range(len(chunks))))["chunks"]
            assert [(each["text"], each["metadata"]) for each in back] == [
                (each.text, dict(each.metadata)) for each in chunks
            ], seed
        assert tracemalloc.get_traced_memory()[1] < MOST_BYTES
    finally:
        tracemalloc.stop()
    assert min(documents, problems) >= examples // 10
