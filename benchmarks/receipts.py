"""Receipts from file to answers, with and without duplicates, against sentence-transformers and chromadb."""

from __future__ import annotations

import json
import random
import statistics
import subprocess
import sys
import time
from typing import TYPE_CHECKING, Any

from benchmarks.process import PEERS, Side
from benchmarks.results import Figure, table
from benchmarks.vectors import MODELS
from flowbed.embedding.local.weights import find_checkpoint

if TYPE_CHECKING:
    from pathlib import Path

    from benchmarks.results import Options

BATCHES = (16, 32, 64, 128, 256)  # batch sizes of sentence-transformers
ADDS = (1_000, 5_000)  # rows per `add`; chromadb takes at most 5,461
SAMPLE = 3_000
ROUNDS = 2


def measure(options: Options) -> dict[str, Any]:
    """Measure both on the receipts as they are, and on the same receipts with all texts made distinct."""
    whole = options.data / "receipts.jsonl"
    count = options.scaled(len(whole.read_text("utf-8").splitlines()), fewest=4)
    original, distinct = options.work / "original.jsonl", options.work / "distinct.jsonl"
    original.write_text("".join(_head(whole, count)), encoding="utf-8")
    distinct.write_text("".join(make_distinct(_head(whole, count))), encoding="utf-8")
    model = str(find_checkpoint("", cache=MODELS, download=False).folder)
    with Side("peer_texts", python=PEERS) as peer:
        peer.ask("load", folder=model)
        best, sweep = _sweep(peer, model, original, options)
    found: dict[str, list[dict[str, Any]]] = {}

    def flowbed(what: str, file: Path) -> None:
        with Side("flowbed_texts") as side:
            folder = options.work / f"{what}-{len(found.get(what, ()))}"
            _keep(found, what, side, side.ask("receipts", folder=folder, file=file))

    def peers(what: str, file: Path, *, dedup: bool) -> None:
        with Side("peer_texts", python=PEERS) as side:
            side.ask("load", folder=model)
            store = options.work / f"{what}-{len(found.get(what, ()))}"
            arguments = {"folder": model, "file": file, "store": store, "dedup": dedup, **best}
            _keep(found, what, side, side.ask("receipts", **arguments))

    # In turn, so that other load on the machine affects both.
    for turn in range(options.rounds or ROUNDS):
        flowbed("flowbed", original)
        if turn < 1:  # the peer takes minutes
            peers("peers", original, dedup=False)
            flowbed("flowbed, distinct", distinct)
    peers("peers, distinct", distinct, dedup=False)
    peers("peers, deduplicated", original, dedup=True)
    return {
        "receipts": count,
        "best": best,
        "sweep": sweep,
        "runs": {what: _median(runs) for what, runs in found.items()},
        "seconds": {what: [run["seconds"] for run in runs] for what, runs in found.items()},
        "command": _command(options, original),
    }


def figures(found: dict[str, Any]) -> list[Figure]:
    """Compare the medians."""
    taken = {what: run["seconds"] for what, run in found["runs"].items()}
    return [
        Figure(
            what="Receipts to answers, against sentence-transformers + chromadb",
            value=taken["peers"] / taken["flowbed"],
            target=5,
        ),
        Figure(
            what="The same, all texts distinct",
            value=taken["peers, distinct"] / taken["flowbed, distinct"],
            target=1.4,
        ),
    ]


def section(found: dict[str, Any]) -> str:
    """Write what was measured."""
    names = {
        "flowbed": "Flowbed",
        "peers": "sentence-transformers + chromadb",
        "peers, deduplicated": "the same, each distinct text embedded once by the user's own code",
        "flowbed, distinct": "Flowbed, all texts distinct",
        "peers, distinct": "sentence-transformers + chromadb, all texts distinct",
    }
    rows = []
    for what, name in names.items():
        run = found["runs"][what]
        embedded = run.get("embedded", run["rows"] if "dedup" not in what else run.get("distinct"))
        parts = ", ".join(f"{part} {seconds:.1f}" for part, seconds in run["parts"].items())
        all_of = ", ".join(f"{each:.1f}" for each in found["seconds"][what])
        rows.append(
            [name, f"{embedded:,}", f"{run['seconds']:.1f}", all_of, parts, f"{run['memory'] / 2**20:,.0f}"]
        )
    run, command = found["runs"]["flowbed"], found["command"]
    sweep = "; ".join(
        f"{what} {', '.join(f'{size}: {rate:,.0f}/s' for size, rate in rates.items())}"
        for what, rates in found["sweep"].items()
    )
    return f"""## Receipts, from the file to answers

{found["receipts"]:,} receipts become {run["rows"]:,} lines and words with ids, texts and metadata in two collections.
Timed from reading a JSON Lines file until a new reader of the store finds the last of them. Each run is a new process
with the model loaded, without a cache or a store. Flowbed keeps its ledger and syncs every file it writes to disk; the
peers do neither. Many texts are duplicates: Flowbed embeds {run["embedded"]:,} of them. Where all texts are distinct,
repeated texts have a number appended ("TOTAL", "TOTAL 2"), in the file that both read.

{table(["", "texts embedded", "seconds, median", "all runs", "of which", "memory, MiB"], rows)}

The peers' settings are the fastest of: {sweep}. Used were batches of {found["best"]["batch_size"]} texts and
{found["best"]["add_size"]:,} rows.

On the command line, in a new project, `flowbed run` takes {command["cold"]:.1f} s, including the start of process and
model; again, with no changes, {command["again"]:.2f} s for {command["embedded_again"]} texts embedded. `flowbed --help`
takes {command["help"]:.2f} s.
"""


def make_distinct(lines: list[str]) -> list[str]:
    """Append a number to every text of receipts that occurred before."""
    seen: dict[str, int] = {}
    taken: set[str] = set()

    def distinct(text: str) -> str:
        named = text
        while named in taken:
            seen[text] = seen.get(text, 1) + 1
            named = f"{text} {seen[text]}"
        taken.add(named)
        return named

    made = []
    for receipt in map(json.loads, lines):
        for line in receipt["lines"]:
            line["text"] = distinct(line["text"])
            for word in line["words"]:
                word["text"] = distinct(word["text"])
        made.append(json.dumps(receipt) + "\n")
    return made


def command(project: Path, *arguments: str) -> tuple[float, dict[str, Any]]:
    """Run one Flowbed command in its own process; return its seconds and the last line it printed."""
    began = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-m", "flowbed", *arguments, "--json"],
        cwd=project,
        check=True,
        capture_output=True,
        text=True,
    )
    report: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return time.perf_counter() - began, report


def _command(options: Options, file: Path) -> dict[str, Any]:
    project = options.work / "command"
    project.mkdir()
    command(project, "init")
    command(project, "add", "receipts", "receipts", str(file))
    cold, _ = command(project, "run")
    again, second = command(project, "run")
    taken = []
    for _ in range(15):
        began = time.perf_counter()
        subprocess.run([sys.executable, "-m", "flowbed", "--help"], check=True, capture_output=True)
        taken.append(time.perf_counter() - began)
    return {
        "cold": cold,
        "again": again,
        "embedded_again": second["embedded"],
        "help": statistics.median(taken),
    }


def _head(file: Path, count: int) -> list[str]:
    return file.read_text("utf-8").splitlines(keepends=True)[:count]


def _sweep(
    peer: Side, model: str, file: Path, options: Options
) -> tuple[dict[str, int], dict[str, dict[int, float]]]:
    """Find the peers' best batch sizes: on a sample of the texts, and on some of the receipts."""
    texts = []
    for receipt in map(json.loads, file.read_text("utf-8").splitlines()):
        for line in receipt["lines"]:
            texts += [line["text"], *(word["text"] for word in line["words"])]
    sample = random.Random(3).sample(texts, min(options.scaled(SAMPLE, fewest=64), len(texts)))
    path = options.work / "sample.json"
    path.write_text(json.dumps(sample), encoding="utf-8")
    encoding = {
        size: len(sample) / peer.ask("encode", folder=model, texts=path, batch_size=size) for size in BATCHES
    }
    fastest = max(encoding, key=lambda size: encoding[size])
    some = options.work / "some.jsonl"
    some.write_text("".join(_head(file, max(2, options.scaled(60)))), encoding="utf-8")
    adding = {}
    for size in ADDS:
        store = options.work / f"sweep-{size}"
        arguments = {"folder": model, "file": some, "store": store, "batch_size": fastest, "dedup": True}
        run = peer.ask("receipts", add_size=size, **arguments)
        adding[size] = run["rows"] / run["parts"]["add"]
    best = {"batch_size": fastest, "add_size": max(adding, key=lambda size: adding[size])}
    return best, {"texts in a batch": encoding, "rows in an add": adding}


def _keep(found: dict[str, list[dict[str, Any]]], what: str, side: Side, run: dict[str, Any]) -> None:
    found.setdefault(what, []).append({**run, "memory": side.memory.peak})


def _median(runs: list[dict[str, Any]]) -> dict[str, Any]:
    """Return the run with the median time; the time itself is the median of all."""
    middle = sorted(runs, key=lambda run: run["seconds"])[len(runs) // 2]
    return {**middle, "seconds": statistics.median(run["seconds"] for run in runs)}
