"""Workers on three hosts, over one Postgres and one S3: killed, cut off, and with a Postgres that crashes.

In the end every text is in the index, each was embedded once but for those in flight when a worker was killed, and
nothing is left over.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import signal
import time
from collections import Counter
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from tests.support.counting import CountingProcess
from tests.support.servers.postgres import PostgresServer
from tests.support.servers.redis import RedisServer
from tests.support.servers.s3 import S3Server, variables

from flowbed.bed import aopen
from flowbed.ledger.workers import HoldsWorkers
from flowbed.records import Status
from torture.hosts import Host, Hosts

if TYPE_CHECKING:
    from pathlib import Path

    from flowbed.bed import Flowbed
    from flowbed.ledger.workers import WorkerRow

BUCKET = "workers"
BATCH = 2_000  # chunks of a batch file
REQUESTS_OF_A_WORKER = 4  # in flight: two tasks with two each
SECOND = 1.0
SETTINGS = """\
model = "seeded:32"
concurrency = 2
[workers]
dead_seconds = {dead:g}
sweep_seconds = 2
[workers.queues.embed]
worker = 2
"""


@dataclass
class WorkersTrial:
    """One trial: `chunks` texts, `processes` workers on each of `number` hosts, faults of three kinds.

    A request has up to `texts` texts, and takes `delay` seconds at the provider. `quiet` seconds, about, lie between
    two faults. A worker counts as dead after `dead` seconds of silence.
    """

    folder: Path
    seed: int
    chunks: int
    number: int = 3
    processes: int = 2
    delay: float = SECOND
    minutes: float = 30.0
    texts: int = 100
    quiet: float = 4.0
    dead: float = 5.0
    done: Counter[str] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)

    async def carry_out(self) -> bool:
        """Carry it out, print what was found, and return whether all was right."""
        began = time.monotonic()
        with ExitStack() as stack:
            hosts = stack.enter_context(Hosts(self.number))
            postgres = stack.enter_context(PostgresServer(durable=True))
            s3, redis = stack.enter_context(S3Server()), stack.enter_context(RedisServer())
            provider = stack.enter_context(CountingProcess(delay=self.delay))
            s3.make_bucket(BUCKET)
            url = postgres.database()
            ports = [
                int(each.rpartition(":")[2])
                for each in (s3.url, redis.url.partition("/0")[0], provider.address)
            ]
            ports.append(postgres.port)
            out = [await hosts.forward(port) for port in ports]
            self._write(hosts, out)
            os.environ.update(
                variables(s3.url) | {"FLOWBED_STORE": f"s3://{BUCKET}/trial", "FLOWBED_LEDGER": url}
            )
            async with await aopen(self._project("host0")) as bed:
                running = [await self._start(host, url, postgres.port, out) for host in hosts.hosts]
                try:
                    if await self._harm(bed, hosts, postgres, began):
                        await self._look(bed, provider)
                finally:
                    for each in running:
                        with suppress(ProcessLookupError):
                            each.send_signal(signal.SIGTERM)
                    await asyncio.gather(*(each.wait() for each in running))
                left = [row.id for row in await _rows(bed) if row.silent < 5_000_000]
                self.wrong += [f"workers are left: {left}"] if left else []
        faults = ", ".join(f"{number} {name}" for name, number in sorted(self.done.items()))
        print(
            f"workers, seed {self.seed}: {self.chunks:,} chunks on {self.number} hosts x {self.processes}: {faults};"
            f" {time.monotonic() - began:.0f} s; {'WRONG: ' + '; '.join(self.wrong) if self.wrong else 'all right'}",
            flush=True,
        )
        return not self.wrong

    def _project(self, name: str) -> Path:
        return self.folder / name

    def _write(self, hosts: Hosts, out: list[int]) -> None:
        """Write the project of each host, with caches of its own; the sources lie on the first."""
        sources = max(1, -(-self.chunks // BATCH)) if self.chunks >= 10 * BATCH else 12
        each, more = divmod(self.chunks, sources)
        for host in hosts.hosts:
            folder = self._project(host.name)
            folder.mkdir(parents=True)
            tables = [
                f'[sources.s{number}]\nkind = "jsonl"\nlocation = "s{number}.jsonl"\ncollection = "all"\n'
                for number in range(sources)
            ]
            redis = f'[serve]\nredis = "redis://{hosts.address}:{out[1]}/0"\n'
            model = f'[model_options]\nserver = "{hosts.address}:{out[2]}"\nitems = "{self.texts}"\n'
            (folder / "flowbed.toml").write_text(
                "".join([SETTINGS.format(dead=self.dead), redis, model, *tables])
            )
        for number in range(sources):
            rows = [
                {"id": f"k{n}", "text": f"text {number} {n} of the trial"}
                for n in range(each + (number < more))
            ]
            lines = "".join(f"{json.dumps(row)}\n" for row in rows)
            (self._project("host0") / f"s{number}.jsonl").write_text(lines)

    async def _start(self, host: Host, url: str, port: int, out: list[int]) -> asyncio.subprocess.Process:
        bridge = self._address(host)
        given = variables(f"http://{bridge}:{out[0]}") | {
            "FLOWBED_STORE": f"s3://{BUCKET}/trial",
            "FLOWBED_LEDGER": url.replace(f"127.0.0.1:{port}", f"{bridge}:{out[3]}"),
        }
        queues = (
            [] if host.name == "host0" else ["--queues", "embed", "--queues", "commit", "--queues", "upkeep"]
        )
        return await host.start(
            ["worker", "--processes", str(self.processes), *queues],
            folder=self._project(host.name),
            variables=given,
            log=self.folder / f"{host.name}.log",
        )

    def _address(self, host: Host) -> str:
        text = (self._project(host.name) / "flowbed.toml").read_text()
        return text.partition("redis://")[2].partition(":")[0]

    async def _harm(self, bed: Flowbed, hosts: Hosts, postgres: PostgresServer, began: float) -> bool:
        """Do harm until everything is in the index; False if time is up before."""
        chance = random.Random(self.seed)
        while time.monotonic() - began < self.minutes * 60:
            await asyncio.sleep(self.quiet * chance.uniform(0.5, 1.5))
            if await self._finished(bed):
                return True
            await self._retry(bed)
            what = chance.choice(("killed", "killed", "links cut", "Postgres crashed"))
            if what == "killed":
                await self._kill(bed, chance)
            elif what == "links cut":
                host = chance.choice(hosts.hosts)
                host.cut()
                await asyncio.sleep(chance.uniform(1, 8))
                host.mend()
                # What was under way is sent again by TCP: nobody is killed before that.
                await asyncio.sleep(self.quiet)
                self.done[what] += 1
            else:
                postgres.stop(crash=True)
                await asyncio.sleep(chance.uniform(0.5, 5))
                postgres.start()
                self.done[what] += 1
        counts = await bed.ledger.chunks.counts()
        self.wrong.append(f"not finished after {self.minutes:g} minutes: {counts}")
        return False

    async def _kill(self, bed: Flowbed, chance: random.Random) -> None:
        rows = [row for row in await _rows(bed) if row.silent < 2_000_000]
        if rows:
            with suppress(ProcessLookupError):
                os.kill(chance.choice(rows).pid, signal.SIGKILL)
                self.done["killed"] += 1

    async def _retry(self, bed: Flowbed) -> None:
        """Do what an operator does whose machines were taken away too often: put back what was given up."""
        if await bed.dead_letters():
            self.done["tasks given up and retried"] += (await bed.replay()).tasks

    async def _finished(self, bed: Flowbed) -> bool:
        counts = await bed.ledger.chunks.counts()
        return counts == {("all", Status.SUCCESS): self.chunks}

    async def _look(self, bed: Flowbed, provider: CountingProcess) -> None:
        """Compare what was sent and what is in the index with what there is."""
        report = provider.report()
        again = sum(n - 1 for n in report.texts.values())
        self.done["texts sent again that were in flight"] = again
        self.done["requests"] = len(report.requests)
        # An answer may have been written, and its reader killed before it kept the vectors.
        most = self.done["killed"] * REQUESTS_OF_A_WORKER * self.texts
        self.wrong += [f"{again} texts were sent again, more than were in flight"] if again > most else []
        missing = self.chunks - len(report.texts)
        self.wrong += [f"{missing} texts were never sent"] if missing else []
        status = await bed.status()
        rows = status.collections["all"].rows
        self.wrong += [f"the index has {rows} rows"] if rows != self.chunks else []
        self.wrong += [f"{status.dead_letters} dead letters"] if status.dead_letters else []
        verified = (await bed.verify("all"))["all"]
        self.wrong += [f"verify: {verified.faults}"] if verified.faults else []


async def _rows(bed: Flowbed) -> list[WorkerRow]:
    ledger: Any = bed.ledger
    assert isinstance(ledger, HoldsWorkers)
    return await ledger.workers.all()
