"""Requests beside a batch: how long clients of `flowbed serve` wait with and without a batch in progress."""

from __future__ import annotations

import itertools
import json
import statistics
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

import openai

from benchmarks.process import Side
from benchmarks.results import table
from benchmarks.server import _flowbed as serving
from benchmarks.server import _lines as lines_of
from benchmarks.vectors import MODEL

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from benchmarks.listening import Listening
    from benchmarks.results import Figure, Options

NAME = "text-embedding-3-small"
WARM = 64  # requests before any is timed
LINES = 50_000  # the maximum of a batch: it must not end during a measurement
JOINED = 16  # lines of receipts per text
LEFT_ALONE = 30.0  # seconds for which a batch alone is measured
SETTLED = 3.0  # seconds that a batch runs before anything is measured beside it


@dataclass(frozen=True, kw_only=True)
class Pattern:
    """How requests arrive: `count` over several connections without a pause, or over one connection with pauses."""

    what: str
    requests: int
    connections: int = 1
    pause: float = 0.0


PATTERNS = {
    "one": Pattern(what="one after another", requests=1_000),
    "four": Pattern(what="four at a time", requests=2_000, connections=4),
    "often": Pattern(what="one every half second", requests=150, pause=0.5),
    "seldom": Pattern(what="one every two seconds", requests=100, pause=2.0),
}


class Job:
    """A batch in progress at a server, until it is cancelled."""

    def __init__(self, url: str, texts: Sequence[str]) -> None:
        """Create the largest possible batch, and wait until it is in progress."""
        self._client = openai.OpenAI(base_url=f"{url}/v1", api_key="none")
        file = self._client.files.create(file=("in.jsonl", _input(texts)), purpose="batch")
        arguments = {"input_file_id": file.id, "endpoint": "/v1/embeddings", "completion_window": "24h"}
        self._batch = self._client.batches.create(**arguments).id  # type: ignore[arg-type]
        while not self.done():
            time.sleep(0.1)
        time.sleep(SETTLED)

    def __enter__(self) -> Self:
        """Return itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Cancel it."""
        self._client.batches.cancel(self._batch)
        self._client.close()

    def done(self) -> int:
        """Count the lines that are answered.

        Raises:
            RuntimeError: all are, so there is no batch left to measure beside.
        """
        batch = self._client.batches.retrieve(self._batch)
        if batch.status not in {"validating", "in_progress"}:
            raise RuntimeError(f"the batch is {batch.status} before all was measured beside it")
        return batch.request_counts.completed if batch.request_counts else 0


@dataclass(frozen=True, kw_only=True)
class Asking:
    """The clients and their texts: no text is used twice."""

    load: Side
    paced: Side
    texts: Iterator[str]
    options: Options

    def ask(self, server: Listening, pattern: Pattern, count: int) -> list[float]:
        """Send requests as the pattern says, and return how many seconds each took."""
        path = self.options.work / "bodies.jsonl"
        texts = itertools.islice(self.texts, count)
        bodies = ({"model": NAME, "input": text, "encoding_format": "base64"} for text in texts)
        path.write_text("\n".join(json.dumps(body) for body in bodies), encoding="utf-8")
        url = f"{server.url}/v1/embeddings"
        if pattern.pause:
            paced: list[float] = self.paced.ask("ask", url=url, bodies=path, pause=pattern.pause)
            return paced
        answer: dict[str, Any] = self.load.ask("load", url=url, bodies=path, connections=pattern.connections)
        each: list[float] = answer["each"]
        return each


def measure(options: Options) -> dict[str, Any]:
    """Measure each pattern at an idle server, and at the same server with batches."""
    lines = lines_of(options.data)
    texts = (f"{text} {number}" for number in itertools.count() for text in lines)
    settings = f'model = "{MODEL}"\n[serve.aliases]\n"{NAME}" = "{MODEL}"\n'
    found: dict[str, Any] = {}
    with (
        Side("load") as load,
        Side("paced") as paced,
        serving(options.work / "interference", settings) as server,
    ):
        asking = Asking(load=load, paced=paced, texts=texts, options=options)
        counts = {name: options.scaled(each.requests, fewest=10) for name, each in PATTERNS.items()}
        asking.ask(server, PATTERNS["four"], WARM)
        for name, pattern in PATTERNS.items():
            found[name] = {"alone": _quantiles(asking.ask(server, pattern, counts[name]))}
        with Job(server.url, lines) as job:
            for name, pattern in PATTERNS.items():
                before, began = job.done(), time.monotonic()
                beside = _quantiles(asking.ask(server, pattern, counts[name]))
                rate = (job.done() - before) / (time.monotonic() - began)
                found[name] |= {"beside": beside, "rate": rate}
            before = job.done()
            seconds = LEFT_ALONE * min(options.scale, 1)
            time.sleep(seconds)
            rate = (job.done() - before) / seconds
    return {"patterns": found, "rate": rate}


def figures(found: dict[str, Any]) -> list[Figure]:  # noqa: ARG001 - as every benchmark's
    """Return no targets: none was set."""
    return []


def section(found: dict[str, Any]) -> str:
    """Write what was measured."""
    heads = ["requests", "", "p50 ms", "p99 ms", "slowest ms", "p99 beside / p99 alone", "batch lines/s"]
    rows: list[list[object]] = []
    for name, run in found["patterns"].items():
        ratio = run["beside"]["p99"] / run["alone"]["p99"]
        for side, more in (("alone", ["", ""]), ("beside", [f"{ratio:.1f}x", f"{run['rate']:,.0f}"])):
            times = [f"{run[side][each] * 1000:,.1f}" for each in ("p50", "p99", "most")]
            rows.append([PATTERNS[name].what if side == "alone" else "", side, *times, *more])
    return f"""## Interference: requests beside a batch

`flowbed serve` with the local model (all-MiniLM-L6-v2, fp32) gets requests with one line of a receipt, all different:
first alone, and then beside a batch whose lines have {JOINED} lines of receipts each. A batch yields to requests: while
they arrive, and for a second after, it continues in small calls with pauses between. Alone it answers
{found["rate"]:,.0f} lines per second.

{table(heads, rows)}
"""


def _input(texts: Sequence[str]) -> bytes:
    """Write the input of a batch, in which all lines differ."""
    lines = []
    for number in range(LINES):
        at = number * JOINED % (len(texts) - JOINED)
        text = f"{number} {' '.join(texts[at : at + JOINED])}"
        body = {"model": NAME, "input": text, "encoding_format": "base64"}
        lines.append({"custom_id": str(number), "method": "POST", "url": "/v1/embeddings", "body": body})
    return "\n".join(map(json.dumps, lines)).encode()


def _quantiles(seconds: Sequence[float]) -> dict[str, float]:
    quantiles = statistics.quantiles(seconds, n=100, method="inclusive")
    return {"p50": quantiles[49], "p99": quantiles[98], "most": max(seconds)}
