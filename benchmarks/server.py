"""`flowbed serve`: against LiteLLM's proxy with an upstream that costs nothing, and against Infinity with a model."""

from __future__ import annotations

import itertools
import json
import random
import statistics
import sys
import urllib.request
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.listening import Listening
from benchmarks.process import BENCH, Side
from benchmarks.results import Figure, table
from benchmarks.sides.upstream import DIMENSIONS
from benchmarks.vectors import MODEL, MODELS
from flowbed.embedding.local.weights import find_checkpoint

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from benchmarks.results import Options

ROUNDS = 3
CONNECTIONS = 16
NAME = "text-embedding-3-small"
# Requests per round: enough that each round takes seconds, and fewer of the slow ones.
PROXIED = {"Flowbed": 8_000, "Flowbed, coalescing": 8_000, "LiteLLM": 400, "LiteLLM with its cache": 400}
EMPTY = 20_000
SINGLE, BATCH, BATCHES = 1_500, 64, 40
WARM = 0.1  # share of the requests that are sent before the timed ones
BINS = {peer: BENCH / "peers" / peer / "bin" for peer in ("litellm", "infinity")}
EMPTY_ROUTE = "an empty FastAPI route"
SWEPT = 16, 32, 64, 128  # batch sizes of Infinity
PINS = {peer: Path(__file__).parent / f"peers-{peer}.txt" for peer in BINS}


@dataclass
class Measured:
    """What was measured of one server with one kind of requests: a list entry for each round."""

    rates: list[float] = field(default_factory=list)  # inputs per second
    each: list[float] = field(default_factory=list)  # seconds, of every request
    calls: list[float] = field(default_factory=list)  # upstream calls per request
    memory: int = 0

    def summary(self) -> dict[str, Any]:
        """Summarise it."""
        quantiles = statistics.quantiles(self.each, n=100)
        return {
            "rate": statistics.median(self.rates),
            "slowest": min(self.rates),
            "p50": quantiles[49],
            "p99": quantiles[98],
            "memory": self.memory,
            "calls": statistics.mean(self.calls) if self.calls else None,
        }


@dataclass(frozen=True, kw_only=True)
class Asking:
    """The clients and their request bodies."""

    client: Side
    work: Path
    options: Options

    def load(
        self,
        server: Listening,
        bodies: Iterable[dict[str, Any]],
        measured: Measured | None,
        *,
        inputs: int = 1,
    ) -> None:
        """Send all of these, and record the result unless this is only a warm-up."""
        path = self.work / "bodies.jsonl"
        lines = [json.dumps(body) for body in bodies]
        path.write_text("\n".join(lines), encoding="utf-8")
        server.memory.reset()
        answer = self.client.ask(
            "load", url=f"{server.url}/v1/embeddings", bodies=path, connections=CONNECTIONS
        )
        if measured is not None:
            measured.rates.append(len(lines) * inputs / answer["seconds"])
            measured.each += answer["each"]
            measured.memory = max(measured.memory, server.memory.peak)


def measure(options: Options) -> dict[str, Any]:
    """Measure all servers in turn."""
    texts = _lines(options.data)
    with Side("load") as client:
        asking = Asking(client=client, work=options.work, options=options)
        return {
            "rounds": options.rounds or ROUNDS,
            "proxies": _proxies(asking),
            **_models(asking, texts),
            "peers": {
                name: _version(peer, name)
                for peer, name in (("litellm", "litellm"), ("infinity", "infinity_emb"))
            },
        }


def figures(found: dict[str, Any]) -> list[Figure]:
    """Compare the medians."""
    misses, hits = found["proxies"]["misses"], found["proxies"]["hits"]
    litellm = max(misses["LiteLLM"]["rate"], misses["LiteLLM with its cache"]["rate"])
    ratios = [
        (
            "`/v1/embeddings` against LiteLLM's proxy, misses",
            misses["Flowbed"]["rate"] / litellm,
            10.0,
            "{:.1f}x",
        ),
        (
            "`/v1/embeddings` against LiteLLM's proxy, cache hits",
            hits["Flowbed"]["rate"] / hits["LiteLLM with its cache"]["rate"],
            25.0,
            "{:.1f}x",
        ),
        (
            "Cache hits against an empty FastAPI route",
            hits["Flowbed"]["rate"] / hits[EMPTY_ROUTE]["rate"],
            0.4,
            "{:.2f}",
        ),
    ]
    for kind, sides in found["models"].items():
        ratio = sides["Flowbed"]["rate"] / sides["Infinity"]["rate"]
        ratios.append((f"The local model served, against Infinity, {kind}", ratio, 3.0, "{:.1f}x"))
    return [Figure(what=what, value=value, target=target, form=form) for what, value, target, form in ratios]


def section(found: dict[str, Any]) -> str:
    """Write what was measured."""
    heads = ["", "per second", "slowest round", "p50 ms", "p99 ms", "MiB"]
    misses = [[*_row(side, run), f"{run['calls']:.2f}"] for side, run in found["proxies"]["misses"].items()]
    hits = [_row(side, run) for side, run in found["proxies"]["hits"].items()]
    models = "\n\n".join(
        f"{kind.capitalize()}, texts per second:\n\n"
        + table(heads, [_row(side, run) for side, run in sides.items()])
        for kind, sides in found["models"].items()
    )
    sweep = ", ".join(f"{size}: {rate:,.0f}/s" for size, rate in found["sweep"].items())
    return f"""## The server

`flowbed serve` with default settings and no request log, with an upstream that answers at once with a vector of
{DIMENSIONS:,} numbers; LiteLLM's proxy with the same upstream, without and with its memory cache. One text per request,
base64 as OpenAI's SDK asks for it, {CONNECTIONS} persistent connections, {found["rounds"]} rounds in turn. Client,
server and upstream are separate processes on one machine and share its cores.

Every text is new, requests per second. Flowbed calls upstream once per request; with coalescing, once for requests that
wait together:

{table([*heads, "upstream calls per request"], misses)}

The same text every time, requests per second:

{table(heads, hits)}

The local model (all-MiniLM-L6-v2, fp32) behind `flowbed serve` and behind Infinity (torch), {CONNECTIONS} connections.
Lines of receipts, all different, with a new project for each round: every text is embedded, and none comes from
Flowbed's cache. Infinity uses batches of {found["best"]} texts, its fastest size ({sweep}). {models}

LiteLLM {found["peers"]["litellm"]}, Infinity {found["peers"]["infinity_emb"]}.
"""


def _row(side: str, run: dict[str, Any]) -> list[object]:
    rates = [f"{run[name]:,.0f}" for name in ("rate", "slowest")]
    times = [f"{run[name] * 1000:,.2f}" for name in ("p50", "p99")]
    return [side, *rates, *times, f"{run['memory'] / 2**20:,.0f}"]


def _proxies(asking: Asking) -> dict[str, Any]:
    misses, hits = _by_name(PROXIED), _by_name([*PROXIED, EMPTY_ROUTE])
    new = (f"what nobody has asked for before, number {number}" for number in itertools.count())
    with ExitStack() as stack:
        upstream = stack.enter_context(
            Listening("upstream", [sys.executable, "-m", "benchmarks.sides.upstream", "{port}"])
        )
        starts = {
            "Flowbed": lambda: _flowbed(asking.work / "plain", _upstream(upstream, "local")),
            "Flowbed, coalescing": lambda: _flowbed(asking.work / "coalescing", _upstream(upstream, "all")),
            "LiteLLM": lambda: _litellm(asking.work, upstream, cache=False),
            "LiteLLM with its cache": lambda: _litellm(asking.work, upstream, cache=True),
        }
        servers = {side: stack.enter_context(start()) for side, start in starts.items()}
        empty = stack.enter_context(_empty())
        for warm in itertools.chain([True], itertools.repeat(False, asking.options.rounds or ROUNDS)):
            for side, server in servers.items():
                count = asking.options.scaled(PROXIED[side], fewest=CONNECTIONS)
                count = max(CONNECTIONS, round(count * WARM)) if warm else count
                before = _calls(upstream)
                asking.load(server, _bodies(new, count), None if warm else misses[side])
                if not warm:
                    misses[side].calls.append((_calls(upstream) - before) / count)
                asking.load(server, [_body("the same again")] * count, None if warm else hits[side])
            count = asking.options.scaled(EMPTY, fewest=CONNECTIONS)
            asking.load(empty, [_body("the same again")] * count, None if warm else hits[EMPTY_ROUTE])
    del (
        hits["LiteLLM"],
        hits["Flowbed, coalescing"],
    )  # the first has no cache; the second is another setting of Flowbed
    return {"misses": _summaries(misses), "hits": _summaries(hits)}


def _models(asking: Asking, texts: Sequence[str]) -> dict[str, Any]:
    """Serve the same model with both, one after the other in each round, so that they do not share the cores."""
    kinds = {
        "one text per request": (asking.options.scaled(SINGLE, fewest=CONNECTIONS), 1),
        f"{BATCH} texts per request": (asking.options.scaled(BATCHES, fewest=CONNECTIONS), BATCH),
    }
    found = {kind: _by_name(["Flowbed", "Infinity"]) for kind in kinds}
    folder = find_checkpoint("", cache=MODELS, download=False).folder
    sweep = {size: _swept(asking, folder, size, iter(texts)) for size in SWEPT}
    best = max(sweep, key=lambda size: sweep[size])
    settings = f'model = "{MODEL}"\n[serve.aliases]\n"{NAME}" = "{MODEL}"\n'
    sides: dict[str, Callable[[str], Listening]] = {
        "Flowbed": lambda name: _flowbed(asking.work / name, settings),
        "Infinity": lambda _: _infinity(folder, best),
    }
    for number in range(asking.options.rounds or ROUNDS):
        for (kind, (count, size)), side in itertools.product(kinds.items(), sides):
            # A new project each time, so that no text is cached.
            with sides[side](f"model-{number}-{size}") as server:
                fresh = iter(texts)
                asking.load(server, _bodies(fresh, CONNECTIONS, 4), None)
                asking.load(server, _bodies(fresh, count, size), found[kind][side], inputs=size)
    models = {kind: _summaries(measured) for kind, measured in found.items()}
    return {"models": models, "sweep": sweep, "best": best}


def _swept(asking: Asking, folder: Path, size: int, texts: Iterator[str]) -> float:
    """Return how many texts per second Infinity embeds with this batch size."""
    measured = Measured()
    with _infinity(folder, size) as server:
        asking.load(server, _bodies(texts, CONNECTIONS, 4), None)
        asking.load(server, _bodies(texts, CONNECTIONS, BATCH), measured, inputs=BATCH)
    return measured.rates[0]


def _flowbed(folder: Path, settings: str) -> Listening:
    """Serve a new project, without cached vectors of earlier rounds."""
    folder.mkdir(exist_ok=True)
    (folder / "flowbed.toml").write_text(settings, encoding="utf-8")
    command = [
        sys.executable,
        "-m",
        "flowbed",
        "serve",
        "--port",
        "{port}",
        "--no-log-requests",
        "--config",
        folder,
    ]
    return Listening(f"serve-{folder.name}", command, ready="/health/live")


def _upstream(upstream: Listening, coalescing: str) -> str:
    provider = f'[providers.openai]\nbase_url = "{upstream.url}/v1"\napi_key = "none"\n'
    return f'model = "openai:{NAME}"\n[serve]\ncoalescing = "{coalescing}"\n{provider}'


def _litellm(work: Path, upstream: Listening, *, cache: bool) -> Listening:
    """Start LiteLLM's proxy with one worker, like Flowbed, and without optional work."""
    name = "litellm-cached" if cache else "litellm"
    parameters = {"model": f"openai/{NAME}", "api_base": f"{upstream.url}/v1", "api_key": "none"}
    settings: dict[str, Any] = {"telemetry": False, "num_retries": 0}
    if cache:
        settings |= {
            "cache": True,
            "cache_params": {"type": "local", "supported_call_types": ["embedding", "aembedding"]},
        }
    config = work / f"{name}.yaml"
    # JSON is YAML.
    config.write_text(
        json.dumps(
            {
                "model_list": [{"model_name": NAME, "litellm_params": parameters}],
                "litellm_settings": settings,
                "general_settings": {"disable_spend_logs": True},
            }
        ),
        encoding="utf-8",
    )
    command = [
        BINS["litellm"] / "litellm",
        "--config",
        config,
        "--host",
        "127.0.0.1",
        "--port",
        "{port}",
        "--num_workers",
        "1",
    ]
    environment = {
        "LITELLM_DANGEROUSLY_PERMIT_WEAK_OR_UNSET_MASTER_KEY": "true",  # no key is required, as with Flowbed
        "LITELLM_LOG": "ERROR",
        "LITELLM_MODE": "PRODUCTION",
        "LITELLM_LOCAL_MODEL_COST_MAP": "True",
        "PATH": f"{BINS['litellm']}:/usr/bin:/bin",
    }
    return Listening(name, command, ready="/health/liveliness", environment=environment)


def _infinity(folder: Path, batch: int) -> Listening:
    """Start Infinity with torch on the CPU, with a thread per core."""
    command = [BINS["infinity"] / "infinity_emb", "v2", "--model-id", folder, "--served-model-name", NAME]
    command += ["--engine", "torch", "--device", "cpu", "--dtype", "float32", "--batch-size", str(batch)]
    command += ["--host", "127.0.0.1", "--port", "{port}", "--url-prefix", "/v1", "--log-level", "error"]
    command += ["--no-model-warmup"]  # it is warmed up with requests, like the others
    environment = {"HF_HUB_OFFLINE": "1", "DO_NOT_TRACK": "1", "INFINITY_ANONYMOUS_USAGE_STATS": "0"}
    return Listening("infinity", command, ready="/health", environment=environment)


def _empty() -> Listening:
    options = ["--port", "{port}", "--no-access-log", "--log-level", "error"]
    return Listening("empty", [sys.executable, "-m", "uvicorn", "benchmarks.sides.empty:app", *options])


def _bodies(texts: Iterator[str], count: int, size: int = 1) -> list[dict[str, Any]]:
    """Make request bodies with `size` texts each; a single text is not a list."""
    parts = (list(itertools.islice(texts, size)) for _ in range(count))
    return [_body(part[0] if size == 1 else part) for part in parts]


def _body(texts: str | list[str]) -> dict[str, Any]:
    return {"model": NAME, "input": texts, "encoding_format": "base64"}


def _calls(upstream: Listening) -> int:
    with urllib.request.urlopen(upstream.url) as answer:  # noqa: S310 - our own http address
        calls: int = json.loads(answer.read())["requests"]
        return calls


def _by_name(names: Iterable[str]) -> dict[str, Measured]:
    return {name: Measured() for name in names}


def _summaries(measured: dict[str, Measured]) -> dict[str, Any]:
    return {name: each.summary() for name, each in measured.items()}


def _version(peer: str, name: str) -> str:
    pins = dict(line.split("==") for line in PINS[peer].read_text("utf-8").split())
    return pins[name]


def _lines(data: Path) -> list[str]:
    """Return the distinct lines of receipts, in random order."""
    with (data / "receipts.jsonl").open(encoding="utf-8") as file:
        found = sorted({line["text"] for record in file for line in json.loads(record)["lines"]})
    random.Random(0).shuffle(found)
    return found
