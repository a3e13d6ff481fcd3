"""Kill processes at random moments, and run many on one project at once; nothing may be lost or doubled.

Runs `kills`, `submissions` (the same, on the batch lane), `publishing` (of publications), `load`, or `crowd` (of
publishers and readers); without arguments all of them. `workers` kills workers on three hosts, and needs root. Each
trial of kills prints its seed; `--seed` repeats that trial.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import logging
import secrets
import shutil
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

from tests.support.processes.preloaded import Preloaded
from tests.support.servers.s3 import S3Server

from torture.crowd import crowd
from torture.kills import BUCKET, Outcome, Trial
from torture.load import load
from torture.publishing import PublishingTrial
from torture.submissions import SubmissionsTrial
from torture.workers import WorkersTrial

if TYPE_CHECKING:
    from collections.abc import Sequence

KILLS = 200
A_TRIAL = 10  # kills
MINUTES = 15.0  # after which no new trial starts
AT_ONCE = 2  # trials: each waits half of its time
TRIALS: dict[str, type[Trial | SubmissionsTrial | PublishingTrial]] = {
    "kills": Trial,
    "submissions": SubmissionsTrial,
    "publishing": PublishingTrial,
}
STORES = {"file": ("file",), "s3": ("s3",), "both": ("file", "s3")}


def main(given: Sequence[str] | None = None) -> int:
    """Run what the arguments name, by default those of the command line, and print the results."""
    arguments = _arguments(given)
    # The proxy's server logs every connection that a killed process leaves behind.
    logging.getLogger("aiohttp.server").setLevel(logging.CRITICAL)
    work = Path(tempfile.mkdtemp(prefix="torture-"))
    failed = False
    for kind in TRIALS:
        if arguments.what == kind or (arguments.what is None and (arguments.seed is None or kind == "kills")):
            failed |= asyncio.run(_kills(kind, arguments, work))
    if arguments.what == "load" or (arguments.what is None and arguments.seed is None):
        failed |= not asyncio.run(
            load(
                work / "load",
                seconds=arguments.seconds,
                processes=arguments.processes,
                ledger=arguments.ledger,
            )
        )
    if arguments.what == "crowd" or (arguments.what is None and arguments.seed is None):
        crowded = crowd(
            work / "crowd",
            seconds=arguments.seconds,
            publishers=max(2, arguments.processes // 4),
            readers=arguments.processes,
        )
        failed |= not asyncio.run(crowded)
    if arguments.what == "workers":
        seed = secrets.randbelow(1_000_000) if arguments.seed is None else arguments.seed
        trial = WorkersTrial(
            work / "workers",
            seed,
            arguments.chunks,
            minutes=arguments.minutes,
            texts=arguments.texts,
            quiet=arguments.quiet,
            dead=arguments.dead,
        )
        failed |= not asyncio.run(trial.carry_out())
    if failed:
        print(f"what is left of it: {work}", flush=True)
    else:
        shutil.rmtree(work)
    return int(failed)


async def _kills(kind: str, arguments: argparse.Namespace, work: Path) -> bool:
    """Run trials until there were enough kills or time is up; return whether anything was wrong."""
    stores = STORES[arguments.store]
    first = secrets.randbelow(1_000_000) if arguments.seed is None else arguments.seed
    wanted = arguments.kills or (KILLS if arguments.seed is None else A_TRIAL * len(stores))
    began = time.monotonic()
    done: list[Outcome] = []
    planned = turn = 0  # kills that trials are to make, and trials started

    async def take_turns() -> None:
        nonlocal planned, turn
        while planned < wanted and time.monotonic() < began + arguments.minutes * 60:
            kills, seed, store = (
                min(A_TRIAL, wanted - planned),
                first + turn // len(stores),
                stores[turn % len(stores)],
            )
            planned, turn = planned + kills, turn + 1
            done.append(await _trial(kind, seed, store, work, kills=kills, s3=server.url))

    with S3Server() if "s3" in stores else contextlib.nullcontext(S3Server()) as server:
        if server.url:
            server.make_bucket(BUCKET)
        await asyncio.gather(*(take_turns() for _ in range(arguments.at_once)))
    kills, wrong = sum(each.kills for each in done), [each for each in done if each.wrong]
    if kills < wanted and not wrong:
        print(f"time is over: {arguments.minutes:g} minutes were enough for {kills} of {wanted} kills")
    print(
        f"{kind}: {kills} kills in {len(done)} trials of {sum(each.commands for each in done)} commands:"
        f" {sum(each.lost for each in done)} lost, {sum(each.doubled for each in done)} doubled,"
        f" {sum(each.twice for each in done)} texts sent twice ({sum(each.in_flight for each in done)} were in flight),"
        f" {len(wrong)} trials wrong, {time.monotonic() - began:.0f} s",
        flush=True,
    )
    return bool(wrong) or kills < wanted


async def _trial(kind: str, seed: int, store: str, work: Path, *, kills: int, s3: str) -> Outcome:
    print(f"seed {seed}, {store}: {kills} kills ...", flush=True)
    folder = work / f"{kind}-{store}-{seed}"
    found = await TRIALS[kind](seed, folder, kills=kills, s3=s3 if store == "s3" else "").carry_out()
    if found.wrong:
        print(
            *(f"    {line}" for line in found.story),
            f"seed {seed}, {store}: WRONG: {found.wrong}",
            f"seed {seed}, {store}: again: python -m torture {kind} --seed {seed} --store {store} --kills {kills}",
            sep="\n",
            flush=True,
        )
        return found
    print(
        f"seed {seed}, {store}: {found.kills} kills, {found.commands} commands, {found.rows} rows,"
        f" {found.twice} texts sent twice ({found.in_flight} were in flight), {found.seconds:.1f} s",
        flush=True,
    )
    shutil.rmtree(folder)
    return found


def _arguments(given: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m torture", description=__doc__)
    parser.add_argument(
        "what", nargs="?", choices=(*TRIALS, "load", "crowd", "workers"), help="by default all but workers"
    )
    parser.add_argument("--chunks", type=int, default=6_000, help="of workers")
    parser.add_argument("--texts", type=int, default=100, help="of a request of workers")
    parser.add_argument("--quiet", type=float, default=4.0, help="seconds between two faults of workers")
    parser.add_argument(
        "--dead", type=float, default=5.0, help="seconds after which silent workers count as dead"
    )
    parser.add_argument(
        "--kills", type=int, default=0, help=f"how many, by default {KILLS}; with --seed one trial's"
    )
    parser.add_argument("--seed", type=int, help="of the first trial, the next ones count on; by default any")
    parser.add_argument("--store", choices=STORES, default="both")
    parser.add_argument("--minutes", type=float, default=MINUTES, help="no trial begins after so many")
    parser.add_argument("--at-once", type=int, default=AT_ONCE, help="trials that go on at once")
    parser.add_argument("--seconds", type=float, default=60, help="that the load lasts")
    parser.add_argument(
        "--processes", type=int, default=8, help="that commit; as many fetch, and as many search"
    )
    parser.add_argument("--ledger", choices=("sqlite", "postgres"), default="sqlite", help="of the load")
    return parser.parse_args(given)


if __name__ == "__main__":
    with Preloaded():
        sys.exit(main())
