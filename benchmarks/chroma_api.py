"""Chroma's HTTP API: `flowbed serve` against `chroma run`, and a change seen through it against a new snapshot."""

from __future__ import annotations

import json
import shutil
import statistics
import sys
import time
import urllib.request
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from benchmarks import build
from benchmarks.listening import Listening
from benchmarks.process import PEERS, Side
from benchmarks.results import Figure, table
from benchmarks.sides.rows import row_of
from benchmarks.vectors import EXPLAINED, QUERIES, recall

if TYPE_CHECKING:
    from pathlib import Path

    import numpy as np
    from numpy.typing import NDArray

    from benchmarks.results import Options
    from benchmarks.vectors import Rows

DATABASE = "/api/v2/tenants/default_tenant/databases/default_database"
COLLECTION = "rows"  # on both sides
CONNECTIONS = (1, 16)
ROUNDS = 3
REQUESTS = 2_000  # a round: some seconds with one connection
WARM = 200  # uncounted queries that open files and fill caches
LOOKS = (20, 50, 100, 200, 400)  # chromadb's ef_search; 100 is its default
SWEPT = 500  # queries whose recall is measured
CHANGED, CHANGES = 1_000, 5
PATIENCE = 60.0  # seconds until a change has to be seen
TARGETS = {"rate": 1.5, "sooner": 20}


@dataclass
class Measured:
    """What was measured of one server with a number of connections."""

    rates: list[float] = field(default_factory=list)
    each: list[float] = field(default_factory=list)

    def summary(self) -> dict[str, float]:
        """Summarise it: requests per second, and seconds."""
        quantiles = statistics.quantiles(self.each, n=100)
        return {"rate": statistics.median(self.rates), "p50": quantiles[49], "p99": quantiles[98]}


@dataclass(frozen=True, kw_only=True)
class Served:
    """A server with a collection of the rows."""

    server: Listening
    collection: str

    @property
    def url(self) -> str:
        """The address of queries."""
        return f"{self.server.url}{DATABASE}/collections/{self.collection}/query"

    def query(self, vector: NDArray[np.float32], limit: int = 10) -> dict[str, Any]:
        """Ask for the rows near a vector."""
        return call("POST", self.url, body(vector, limit))


def measure(options: Options) -> dict[str, Any]:
    """Serve the same rows with both, and send both the same requests in turn."""
    data, count = build.rows(options), options.scaled(build.ROWS, fewest=2_000)
    bed, store = options.work / "bed", options.work / "chroma"
    with Side("flowbed_rows") as side:
        side.ask("begin", folder=bed, rows=data.folder, model="seeded:384")
        side.ask("build", count=count)
    shutil.copytree(build.chroma(data, count), store)
    mask = data.buckets >= 0
    mask[count:] = False
    with _flowbed(bed) as server:
        looked = _recall(served(server), data, options, mask)
    sweep = {}
    for ef in LOOKS:
        _set(store, ef)
        with _chroma(store) as server:
            sweep[ef] = _recall(served(server), data, options, mask)
        if sweep[ef] >= looked:
            break
    with _flowbed(bed) as ours, _chroma(store) as theirs, Side("load") as client:
        servers = {"Flowbed": served(ours), "chroma run": served(theirs)}
        found = _loads(client, servers, data, options)
        memory = {"Flowbed": ours.memory.peak, "chroma run": theirs.memory.peak}
        changes = _changes(bed, servers["Flowbed"], data, options, count)
    changes["snapshot"] = _snapshots(build.chroma(data, count), data, options, count)
    return {
        "rows": count,
        "recall": {"Flowbed": looked, "chroma run": sweep[ef]},
        "ef": ef,
        "found": found,
        "memory": memory,
        "changed": options.scaled(CHANGED, fewest=50),
        "changes": changes,
    }


def figures(found: dict[str, Any]) -> list[Figure]:
    """Compare rates at equal recall, and the time until a change is seen."""
    rates = [
        Figure(
            what=f"`query` by Chroma's API, {found['rows']:,} rows, {connections} connections, against `chroma run`",
            value=sides["Flowbed"]["rate"] / sides["chroma run"]["rate"],
            target=TARGETS["rate"],
        )
        for connections, sides in found["found"].items()
    ]
    seen = {side: statistics.median(seconds) for side, seconds in found["changes"].items()}
    sooner = Figure(
        what=f"{found['changed']:,} changed rows seen through Chroma's API, against a new snapshot",
        value=seen["snapshot"] / seen["API"],
        target=TARGETS["sooner"],
    )
    return [*rates, sooner]


def section(found: dict[str, Any]) -> str:
    """Write what was measured."""
    lines = [
        [
            f"{connections} connections, {side}",
            f"{run['rate']:,.0f}",
            f"{run['p50'] * 1e3:.2f}",
            f"{run['p99'] * 1e3:.2f}",
        ]
        for connections, sides in found["found"].items()
        for side, run in sides.items()
    ]
    recalls = ", ".join(f"{side} {share:.4f}" for side, share in found["recall"].items())
    memory = ", ".join(f"{side} {held / 2**20:,.0f} MiB" for side, held in found["memory"].items())
    seen = {side: statistics.median(seconds) * 1e3 for side, seconds in found["changes"].items()}
    return f"""## Chroma's API

`flowbed serve`, with FAISS installed, and `chroma run` answer `query` over {found["rows"]:,} rows of 384 dimensions:
the ten nearest with document, metadata and distance. Recall@10: {recalls}; `ef_search` of `chroma run` is
{found["ef"]}, the lowest of {", ".join(map(str, LOOKS))} that reaches Flowbed's recall, or the highest. Client and
servers share the cores; the servers took turns.

{table(["", "requests/s", "p50, ms", "p99, ms"], lines)}

Peak memory of the servers: {memory}.

From {found["changed"]:,} changed rows with their vectors at hand until a Chroma client finds one of them:
{seen["API"]:,.0f} ms through the API of a running server (delta, ledger, commit, and the query that finds it),
{seen["snapshot"]:,.0f} ms through a new snapshot (the directory copied, the rows upserted, copied back, opened and
queried; on one disk, without a network).

{EXPLAINED}
"""


def call(method: str, url: str, sent: Any = None) -> Any:  # any JSON value
    """Send a request and return the answer."""
    data = None if sent is None else json.dumps(sent).encode()
    request = urllib.request.Request(  # noqa: S310 - our own http address
        url, data, {"content-type": "application/json"}, method=method
    )
    with urllib.request.urlopen(request, timeout=PATIENCE) as response:  # noqa: S310
        return json.loads(response.read())


def body(vector: NDArray[np.float32], limit: int = 10) -> dict[str, Any]:
    """Write the body of a query."""
    return {
        "query_embeddings": [vector.tolist()],
        "n_results": limit,
        "include": ["documents", "metadatas", "distances"],
    }


def served(server: Listening) -> Served:
    """Find the collection of a server."""
    found = call("GET", f"{server.url}{DATABASE}/collections/{COLLECTION}")
    return Served(server=server, collection=found["id"])


def _flowbed(folder: Path) -> Listening:
    command = [sys.executable, "-m", "flowbed", "serve", "--port", "{port}", "--no-log-requests"]
    return Listening("serve-chroma", [*command, "--config", folder], ready="/health/live")


def _chroma(store: Path) -> Listening:
    command = [PEERS.parent / "chroma", "run", "--path", store, "--host", "127.0.0.1", "--port", "{port}"]
    return Listening(
        "chroma", command, ready="/api/v2/heartbeat", environment={"ANONYMIZED_TELEMETRY": "False"}
    )


def _recall(server: Served, data: Rows, options: Options, mask: NDArray[np.bool_]) -> float:
    queries = data.queries[: options.scaled(SWEPT, fewest=50)]
    found = [[row_of(key) for key in server.query(vector)["ids"][0]] for vector in queries]
    return recall(data, found, mask=mask)


def _set(store: Path, ef: int) -> None:
    """Set ef_search of the collection; it takes effect when a server opens the folder again."""
    with _chroma(store) as server:
        url = f"{server.url}{DATABASE}/collections/{served(server).collection}"
        call("PUT", url, {"new_configuration": {"hnsw": {"ef_search": ef}}})


def _loads(client: Side, servers: dict[str, Served], data: Rows, options: Options) -> dict[str, Any]:
    """Send the same queries to each server in turn, with each number of connections."""
    count = options.scaled(REQUESTS, fewest=100)
    path = options.work / "bodies.jsonl"
    found: dict[str, Any] = {}
    for connections in CONNECTIONS:
        measured = {side: Measured() for side in servers}
        for turn in range(1 + (options.rounds or ROUNDS)):
            wanted = count if turn else min(WARM, count)
            lines = [json.dumps(body(data.queries[place % QUERIES])) for place in range(wanted)]
            path.write_text("\n".join(lines), encoding="utf-8")
            for side, server in servers.items():
                answer = client.ask("load", url=server.url, bodies=path, connections=connections)
                if turn:
                    measured[side].rates.append(wanted / answer["seconds"])
                    measured[side].each += answer["each"]
        found[str(connections)] = {side: each.summary() for side, each in measured.items()}
    return found


def _changes(bed: Path, server: Served, data: Rows, options: Options, count: int) -> dict[str, list[float]]:
    """Commit changed rows while the server runs, and ask it until it shows one of them."""
    taken = []
    with Side("flowbed_rows") as side:
        side.ask("open", folder=bed, rows=data.folder)
        for turn in range(1 + CHANGES):
            edition = turn + 1
            run = side.ask(
                "publish", count=count, changed=options.scaled(CHANGED, fewest=50), edition=edition
            )
            # The vector of the row is almost that of its first edition.
            vector, wanted = data.vectors[run["row"]], f"(edition {edition})"
            began = time.perf_counter()
            while wanted not in str(server.query(vector, limit=20)["documents"]):
                if time.perf_counter() - began > PATIENCE:
                    raise LookupError(f"edition {edition} was not seen within {PATIENCE:.0f} s")
            seen = time.perf_counter() - began
            taken += [run["seconds"] + seen] if turn else []  # the first one opens files
    return {"API": taken}


def _snapshots(store: Path, data: Rows, options: Options, count: int) -> list[float]:
    """Change the same number of rows in a copy of chromadb's directory, as its readers get it."""
    taken = []
    for turn in range(1 + CHANGES):
        with Side("peer_rows", python=PEERS) as peer:
            run = peer.ask(
                "publish",
                store=store,
                rows=data.folder,
                work=options.work,
                count=count,
                changed=options.scaled(CHANGED, fewest=50),
                edition=turn + 1,
                add_size=build.ADDS[0],
            )
        taken += [run["seconds"]] if turn else []
    return taken
