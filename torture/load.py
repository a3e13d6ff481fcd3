"""Many processes on one project at once: some fetch, some commit, some search and check every answer."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import random
import shutil
import time
from typing import TYPE_CHECKING, Any

from tests.support.processes.running import PATIENCE, call, respond
from tests.support.servers.postgres import PostgresServer

from flowbed import aopen
from flowbed.errors import Conflict, Transient
from flowbed.index.commit import commit
from flowbed.index.deltas import Delete, Upsert, write_delta
from flowbed.ledger import RunRow
from flowbed.pipeline.run import run
from flowbed.pipeline.sync import sync
from flowbed.records import Space, Status, text_hash
from flowbed.testing.embedder import seeded
from flowbed.testing.index import Contents, Row, contents_of, differences
from torture import world
from torture.searching import Searcher
from torture.tables import Tables
from torture.world import World

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from flowbed import Flowbed
    from flowbed.lanes.contexts import RunContext

SPACE = Space(model=world.MODEL, dimensions=world.DIMENSIONS)
SHOWN = 10  # wrong answers that are printed
PAUSE = 0.05  # at most, in seconds, between two fetches, so that there is something to do for each of them
ANEW = 20  # searches before the project is opened again


async def load(folder: Path, *, seconds: float, processes: int, ledger: str) -> bool:
    """Let `processes` of each kind work for `seconds`, and return whether everything observed is right."""
    size = World(processes)
    project = folder / "project"
    project.mkdir(parents=True)
    (project / "flowbed.toml").write_text(world.settings(size), "utf-8")
    with contextlib.ExitStack() as opened:
        variables = {}
        if ledger == "postgres":
            server = opened.enter_context(PostgresServer())
            variables["FLOWBED_LEDGER"] = server.database()
        await call(blocking, *(begin, folder, size), variables=variables, log=folder / "begin")
        until = time.time() + seconds
        kinds = {"fetch": fetch, "commit": commit_groups, "search": search}
        answers = await asyncio.gather(
            *(
                call(
                    blocking,
                    *(work, folder, size, number, until),
                    variables=variables,
                    log=folder / f"{name}-{number}",
                    patience=seconds + PATIENCE,
                )
                for name, work in kinds.items()
                for number in range(processes)
            ),
            return_exceptions=True,
        )
        found = [each for each in answers if isinstance(each, dict)]
        wrong = [str(each) for each in answers if isinstance(each, BaseException)]
        wrong += [line for each in found for line in each.get("wrong", ())]
        end: dict[str, Any] = {"rows": 0, "wrong": []}
        if len(found) == len(answers):  # a process that ended early has not reported what it wrote
            written = [row for each in found for row in each.get("rows", ())]
            end = await call(
                blocking, *(finish, folder, size, written), variables=variables, log=folder / "end"
            )
    wrong += end["wrong"]
    for line in wrong[:SHOWN]:
        print(f"WRONG: {line}")

    edits, fetches, commits, searches, transient = (
        sum(each.get(name, 0) for each in found)
        for name in ("edits", "fetches", "commits", "searches", "transient")
    )
    print(
        f"{processes} committing, {processes} fetching, {processes} searching for {seconds:.0f} s ({ledger}):"
        f" {edits} edits, {fetches} fetches, {commits} commits, {searches} searches, {end['rows']} rows in the end,"
        f" {transient} to be tried again, {len(wrong)} wrong answers",
        flush=True,
    )
    return not wrong


def blocking(work: Any, *arguments: Any) -> int:  # any of the coroutines below
    """Run one part of the load, and print its answer."""
    return respond(asyncio.run(work(*arguments)))


async def begin(folder: Path, size: World) -> dict[str, Any]:
    """Index every record and group at its first revision."""
    tables = _tables(folder, size)
    for source in range(size.sources):
        world.write_source(folder / "project", source, dict.fromkeys(size.keys_of(source), 1))
    tables.written.numbers[:, 0] = 1
    async with await aopen(folder / "project") as bed:
        report = await bed.run()
        tables.acknowledged.numbers[:, 0] = 1
        groups = Groups(bed, tables, 0, size)
        await groups.write(range(world.GROUPS))
    (folder / "begun").write_text(json.dumps(groups.rows), "utf-8")
    return {"failed": report.failed}


async def fetch(folder: Path, size: World, number: int, until: float) -> dict[str, Any]:
    """Fetch a source repeatedly; the first of two that share it also edits it, and observes what is committed."""
    tables, chance = _tables(folder, size), random.Random(number)
    source = number // 2
    revisions = dict.fromkeys(size.keys_of(source), 1)
    edits = fetches = transient = 0
    async with await aopen(folder / "project") as bed:
        context = bed._context()
        feed = (await bed._feeds([world.source_name(source)]))[world.source_name(source)]
        while time.time() < until:
            if number % 2 == 0:
                for key in chance.sample(sorted(revisions), chance.randint(1, 6)):
                    revisions[key] += 1
                    tables.written.raise_to(key, number, revisions[key])
                    edits += 1
                world.write_source(folder / "project", source, revisions)
            try:
                synced = await sync(feed, context, allow_deletes=True)
                if number % 2 == 0 and not synced.problems:
                    await _acknowledge(context, source, revisions, tables, number)
            except Transient:
                transient += 1
            fetches += 1
            await asyncio.sleep(chance.uniform(0, PAUSE))
    return {"edits": edits, "fetches": fetches, "transient": transient}


async def _acknowledge(
    context: RunContext, source: int, revisions: Mapping[int, int], tables: Tables, column: int
) -> None:
    """Record which records are in the index as they are in the source, according to the ledger."""
    name = world.source_name(source)
    for row in await context.ledger.chunks.of(name, [f"k{key}" for key in revisions]):
        key = int(row.document.removeprefix("k"))
        revision = revisions[key]
        gone = world.deleted(key, revision)
        same = row.deleted if gone else row.text_hash == text_hash(world.text(key, revision))
        if same and row.status is Status.SUCCESS:
            tables.acknowledged.raise_to(key, column, revision)


class Groups:
    """A writer of deltas of whole groups, which others write too; it commits what is pending."""

    def __init__(self, bed: Flowbed, tables: Tables, number: int, size: World) -> None:
        """Write as the writer with this number."""
        self._bed, self._tables, self._number, self._size = bed, tables, number, size
        self.rows: list[tuple[int, int, str]] = []  # group, revision and run

    async def write(self, groups: Any) -> None:  # any numbers of groups
        """Write a delta of these groups at a new revision, and commit it."""
        context = self._bed._context()
        # No two processes write one revision: the last digits are the process's number.
        revision = time.time_ns() // 1000 // 32 * 32 + self._number
        upserts, deletes = [], []
        for group in groups:
            names = [f"g{group:03d}-{number}" for number in range(world.MEMBERS)]
            self._tables.group_written.raise_to(group, self._number, revision)
            if world.removes(revision):
                self._tables.group_gone.raise_to(group, self._number, revision)
                deletes += [Delete(id=name, version=revision) for name in names]
                continue
            texts = [world.member(group, number, revision) for number in range(world.MEMBERS)]
            upserts += [
                Upsert(
                    id=name,
                    version=revision,
                    document=each,
                    metadata={"group": group},
                    text_hash=text_hash(each),
                    vector=vector,
                )
                for name, each, vector in zip(names, texts, seeded(texts, world.DIMENSIONS), strict=True)
            ]
        delta = await write_delta(context.store, world.TOGETHER, SPACE, upserts, deletes, now=context.clock())
        row = RunRow(
            id=delta.run,
            collection=world.TOGETHER,
            space=SPACE.to_json(),
            key=delta.key,
            sha256=delta.sha256,
            rows=delta.rows,
            lane="realtime",
            worker=context.worker,
            created=context.clock(),
        )
        await context.ledger.runs.record(row, [], worker=context.worker)
        self.rows += [(group, revision, delta.run) for group in groups]
        await commit(
            world.TOGETHER,
            store=context.store,
            ledger=context.ledger,
            collections=context.collections,
            datasets=context.datasets,
            clock=context.clock,
        )
        for group in groups:
            self._tables.group_acknowledged.raise_to(group, self._number, revision)


async def commit_groups(folder: Path, size: World, number: int, until: float) -> dict[str, Any]:
    """Commit groups, and embed and commit everything that waits; the first writer also compacts from time to time."""
    tables, chance = _tables(folder, size), random.Random(number)
    commits = transient = 0
    async with await aopen(folder / "project") as bed:
        groups = Groups(bed, tables, number, size)
        while time.time() < until:
            try:
                await groups.write(sorted(chance.sample(range(world.GROUPS), 2)))
                await run(bed._context(), feeds={})
                commits += 2
                if number == 0 and chance.random() < 0.1:
                    await bed.compact(
                        vector_index=chance.choice(("auto", "always")), now=chance.random() < 0.2
                    )
            except (Conflict, Transient):  # another process is compacting, or was faster several times
                transient += 1
        # A delta that met a conflict before its commit is committed by the next process.
    return {"rows": groups.rows, "commits": commits, "transient": transient}


async def search(folder: Path, size: World, number: int, until: float) -> dict[str, Any]:
    """Search with one opened project for a while, and then with a new one."""
    tables = _tables(folder, size)
    wrong: list[str] = []
    searches = transient = 0
    while time.time() < until:
        async with await aopen(folder / "project") as bed:
            searcher = Searcher(bed, tables, number, size, random.Random(f"{number} {searches}"))
            while time.time() < until and searcher.searches < ANEW:
                await searcher.ask()
        searches, transient = searches + searcher.searches, transient + searcher.transient
        wrong += searcher.wrong
    return {"searches": searches, "transient": transient, "wrong": wrong}


async def finish(folder: Path, size: World, written: list[tuple[int, int, str]]) -> dict[str, Any]:
    """Run to the end, and compare the index with a new project's, and the groups with what was written."""
    async with await aopen(folder / "project") as bed:
        await run(bed._context(), feeds=await bed._feeds([]), allow_deletes=True)
        report = await bed.run(allow_deletes=True)
        verified = await bed.verify(*world.COLLECTIONS[: min(2, size.sources)])
        status = await bed.status()
    found = contents_of(folder / "project")
    os.environ.pop("FLOWBED_LEDGER", None)
    fresh = folder / "fresh"
    shutil.copytree(folder / "project", fresh, ignore=shutil.ignore_patterns(".flowbed"))
    async with await aopen(fresh) as bed:
        await bed.run()
    rows = {
        **contents_of(fresh).rows,
        world.TOGETHER: _newest([*json.loads((folder / "begun").read_text()), *written]),
    }
    wrong = differences(found, Contents(rows=rows))
    wrong += [f"verify of {name}: {each.faults}" for name, each in verified.items() if each.faults]
    wrong += [f"left to do: {report}"] if report.chunks or report.deleted or report.waiting else []
    done = set(status.chunks) == {"SUCCESS"} and not status.dead_letters and not status.pending
    wrong += [] if done else [f"not done: {status}"]
    return {"wrong": wrong, "rows": found.total}


def _newest(written: list[tuple[int, int, str]]) -> dict[str, Row]:
    """Return the final contents of the groups: of each the newest revision."""
    newest: dict[int, int] = {}
    for group, revision, _ in written:
        newest[group] = max(newest.get(group, 0), revision)
    rows = {}
    for group, revision in newest.items():
        for number in range(0 if world.removes(revision) else world.MEMBERS):
            document = world.member(group, number, revision)
            rows[f"g{group:03d}-{number}"] = Row(
                text_hash=text_hash(document),
                document=document,
                metadata={"group": group},
                vector=seeded([document], world.DIMENSIONS)[0],
            )
    return rows


def _tables(folder: Path, size: World) -> Tables:
    return Tables.open(
        folder / "tables",
        keys=size.keys,
        groups=world.GROUPS,
        collections=len(world.COLLECTIONS),
        processes=size.processes,
    )
