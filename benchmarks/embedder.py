"""The local embedder against ONNX Runtime alone, fed the same batches as arrays, and sentence-transformers."""

from __future__ import annotations

import asyncio
import json
import statistics
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import onnxruntime
from tokenizers import Tokenizer

from benchmarks.process import PEERS, Side
from benchmarks.results import Figure, table
from benchmarks.vectors import MODEL, MODELS
from flowbed.embedding import open_embedder
from flowbed.embedding.local.batching import batches_of, windows_of
from flowbed.embedding.local.cores import usable_cores
from flowbed.embedding.local.weights import find_checkpoint

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from benchmarks.results import Options
    from flowbed.embedding import Embedder
    from flowbed.embedding.local.batching import Batch

ROUNDS = 5
BATCHES = (16, 32, 64, 128, 256)  # batch sizes of sentence-transformers
SWEPT = 2_048, 64  # texts of each kind in the sweep
LINES, ABSTRACTS = 4_096, 256
CLS, SEP, PAD = 101, 102, 0  # the special tokens of the model's vocabulary
WINDOW = 256


@dataclass(frozen=True, kw_only=True)
class Alone:
    """ONNX Runtime without Flowbed: the batches that a run would make of texts, ready to feed."""

    session: Any
    feeds: list[dict[str, Any]]
    tokens: int

    def run(self) -> None:
        """Run every batch."""
        for feed in self.feeds:
            self.session.run(None, feed)


def measure(options: Options) -> dict[str, Any]:
    """Embed lines of receipts and abstracts with all three in turn."""
    embedder = open_embedder(MODEL, cache=MODELS, options={})
    asyncio.run(embedder.embed(["the graph is made and loaded now"], purpose="document"))
    kinds = {
        "lines of receipts": _lines(options.data)[: options.scaled(LINES, fewest=64)],
        "abstracts of Cranfield": _abstracts(options.data)[: options.scaled(ABSTRACTS, fewest=8)],
    }
    model = str(find_checkpoint("", cache=MODELS, download=False).folder)
    found = {}
    with Side("peer_texts", python=PEERS) as peer:
        peer.ask("load", folder=model)
        for (kind, texts), swept in zip(kinds.items(), SWEPT, strict=True):
            path = options.work / "texts.json"
            sample = texts[:: max(1, len(texts) // swept)]
            path.write_text(json.dumps(sample), encoding="utf-8")
            sweep = {
                size: len(sample) / peer.ask("encode", folder=model, texts=path, batch_size=size)
                for size in BATCHES
            }
            best = max(sweep, key=lambda size: sweep[size])
            path.write_text(json.dumps(texts), encoding="utf-8")
            arguments = {"folder": model, "texts": path, "batch_size": best}
            alone = _alone(texts, embedder)
            taken = _taken(
                texts, embedder, alone, lambda arguments=arguments: peer.ask("encode", **arguments), options
            )
            found[kind] = {
                "count": len(texts),
                "tokens": alone.tokens,
                "rates": {side: len(texts) / statistics.median(seconds) for side, seconds in taken.items()},
                "sweep": sweep,
                "best": best,
            }
    return {"rounds": options.rounds or ROUNDS, "found": found}


def figures(found: dict[str, Any]) -> list[Figure]:
    """Compare the medians."""
    lines, abstracts = (each["rates"] for each in found["found"].values())
    reached = [
        Figure(
            what=f"The local embedder against ONNX Runtime alone, {kind}",
            value=rates["Flowbed"] / rates["alone"],
            target=0.9,
            form="{:.2f}",
        )
        for kind, rates in (("short lines", lines), ("abstracts", abstracts))
    ]
    reached.append(
        Figure(
            what="The local embedder against sentence-transformers, short lines",
            value=lines["Flowbed"] / lines["sentence-transformers"],
            target=1.4,
            form="{:.2f}x",
        )
    )
    return reached


def section(found: dict[str, Any]) -> str:
    """Write what was measured."""
    lines = []
    for kind, each in found["found"].items():
        rates = [f"{each['rates'][side]:,.0f}" for side in ("Flowbed", "alone", "sentence-transformers")]
        lines.append([kind, f"{each['count']:,}", f"{each['tokens'] / each['count']:.0f}", *rates])
    sweeps = "; ".join(
        f"{kind} {', '.join(f'{size}: {rate:,.0f}/s' for size, rate in each['sweep'].items())}"
        for kind, each in found["found"].items()
    )
    heads = ["texts", "number", "tokens each", "Flowbed", "ONNX Runtime alone", "sentence-transformers"]
    return f"""## The local embedder

Texts per second of the embedder as a run calls it (tokenising, sorting, padding, pooling, threads), of ONNX Runtime
alone, fed the same batches as finished arrays, and of sentence-transformers at its fastest batch size
({sweeps}). Sorted texts, {found["rounds"]} rounds in turn, medians.

{table(heads, lines)}
"""


def _taken(
    texts: Sequence[str],
    embedder: Embedder,
    alone: Alone,
    peer: Callable[[], float],
    options: Options,
) -> dict[str, list[float]]:
    """Time all three in turn, so that other load on the machine affects all."""
    alone.run()
    taken: dict[str, list[float]] = {"Flowbed": [], "alone": [], "sentence-transformers": []}
    for _ in range(options.rounds or ROUNDS):
        taken["alone"].append(_seconds(alone.run))
        taken["Flowbed"].append(_seconds(lambda: asyncio.run(_whole(embedder, texts))))
        taken["sentence-transformers"].append(peer())
    return taken


def _alone(texts: Sequence[str], embedder: Embedder) -> Alone:
    tokenizer = Tokenizer.from_file(
        str(find_checkpoint("", cache=MODELS, download=False).folder / "tokenizer.json")
    )
    tokenizer.no_truncation()
    tokenizer.no_padding()
    encoded = tokenizer.encode_batch(list(texts), add_special_tokens=False)
    # Cut into calls as a run does, so both get the same batches.
    batches: list[Batch] = []
    for start in range(0, len(texts), embedder.items):
        windows = [
            window
            for place, encoding in enumerate(encoded[start : start + embedder.items])
            for window in windows_of(place, encoding.ids, WINDOW - 2)
        ]
        batches += batches_of(windows, prefix=[CLS], suffix=[SEP], padding=PAD, cores=usable_cores())
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = usable_cores()
    options.inter_op_num_threads = 1
    graph = max(MODELS.glob("*.onnx"), key=lambda path: path.stat().st_mtime)
    session = onnxruntime.InferenceSession(str(graph), options, providers=["CPUExecutionProvider"])
    return Alone(
        session=session,
        feeds=[_feed(session, batch) for batch in batches],
        tokens=sum(len(encoding.ids) for encoding in encoded),
    )


async def _whole(embedder: Embedder, texts: Sequence[str]) -> None:
    for start in range(0, len(texts), embedder.items):
        await embedder.embed(texts[start : start + embedder.items], purpose="document")


def _feed(session: Any, batch: Batch) -> dict[str, Any]:  # onnxruntime has no types
    arrays = {"input_ids": batch.ids, "attention_mask": batch.mask, "token_type_ids": batch.ids * 0}
    kinds = {"tensor(int32)": "int32", "tensor(int64)": "int64"}
    return {wanted.name: arrays[wanted.name].astype(kinds[wanted.type]) for wanted in session.get_inputs()}


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
