"""The local embedder against ONNX Runtime alone, which is given the same batches, already tokenised and padded."""

from __future__ import annotations

import asyncio
import json
import statistics
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import onnxruntime
from tokenizers import Tokenizer

from flowbed.embedding import open_embedder
from flowbed.embedding.batches import batches_of, windows_of
from flowbed.embedding.cores import usable_cores
from flowbed.embedding.weights import find_checkpoint

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from flowbed.embedding import Embedder
    from flowbed.embedding.batches import Batch

MODEL = "onnx:sentence-transformers/all-MiniLM-L6-v2"
ROUNDS = 5
CLS, SEP, PAD = 101, 102, 0  # the special tokens of the model's vocabulary
WINDOW = 256


@dataclass(frozen=True, kw_only=True)
class Rates:
    """Texts per second of one kind of text, the median of all rounds."""

    texts: str
    count: int
    tokens: int
    flowbed: float
    alone: float


def measure(data: Path, cache: Path) -> list[Rates]:
    """Embed receipts' lines and abstracts in turn with both."""
    embedder = open_embedder(MODEL, cache=cache, options={})
    asyncio.run(embedder.embed(["the graph is made and loaded now"], purpose="document"))
    return [
        _rates("lines of receipts", _lines(data)[:4_096], embedder, cache),
        _rates("abstracts of Cranfield", _abstracts(data)[:256], embedder, cache),
    ]


def _rates(kind: str, texts: Sequence[str], embedder: Embedder, cache: Path) -> Rates:
    tokenizer = Tokenizer.from_file(
        str(find_checkpoint("", cache=cache, download=False).folder / "tokenizer.json")
    )
    tokenizer.no_truncation()
    tokenizer.no_padding()
    encoded = tokenizer.encode_batch(list(texts), add_special_tokens=False)
    # Cut into calls as a run does, so that both see the same batches.
    batches: list[Batch] = []
    for start in range(0, len(texts), embedder.items):
        windows = [
            window
            for place, encoding in enumerate(encoded[start : start + embedder.items])
            for window in windows_of(place, encoding.ids, WINDOW - 2)
        ]
        batches += batches_of(windows, prefix=[CLS], suffix=[SEP], padding=PAD)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = usable_cores()
    options.inter_op_num_threads = 1
    session = onnxruntime.InferenceSession(
        str(next(cache.glob("*.onnx"))), options, providers=["CPUExecutionProvider"]
    )
    feeds = [_feed(session, batch) for batch in batches]

    def alone() -> None:
        for feed in feeds:
            session.run(None, feed)

    def whole() -> None:
        asyncio.run(_whole(embedder, texts))

    alone()
    taken: dict[str, list[float]] = {"alone": [], "whole": []}
    for _ in range(ROUNDS):  # in turn, so that whatever else the machine does falls on both
        taken["alone"].append(_seconds(alone))
        taken["whole"].append(_seconds(whole))
    return Rates(
        texts=kind,
        count=len(texts),
        tokens=sum(len(encoding.ids) for encoding in encoded),
        flowbed=len(texts) / statistics.median(taken["whole"]),
        alone=len(texts) / statistics.median(taken["alone"]),
    )


async def _whole(embedder: Embedder, texts: Sequence[str]) -> None:
    for start in range(0, len(texts), embedder.items):
        await embedder.embed(texts[start : start + embedder.items], purpose="document")


def _feed(session: Any, batch: Batch) -> dict[str, Any]:  # noqa: ANN401 - onnxruntime has no types
    given = {"input_ids": batch.ids, "attention_mask": batch.mask, "token_type_ids": batch.ids * 0}
    kinds = {"tensor(int32)": "int32", "tensor(int64)": "int64"}
    return {wanted.name: given[wanted.name].astype(kinds[wanted.type]) for wanted in session.get_inputs()}


def _seconds(work: Callable[[], None]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def _lines(data: Path) -> list[str]:
    """Read distinct lines, sorted by length, as a run sends them."""
    with (data / "receipts.jsonl").open(encoding="utf-8") as file:
        found = {line["text"] for record in file for line in json.loads(record)["lines"]}
    return sorted(sorted(found)[:: max(1, len(found) // 4_096)], key=len)


def _abstracts(data: Path) -> list[str]:
    with (data / "retrieval" / "corpus.jsonl").open(encoding="utf-8") as file:
        found = [f"{record['title']}\n\n{record['text']}" for record in map(json.loads, file)]
    return sorted(found[: 256 * 5 : 5], key=len)
