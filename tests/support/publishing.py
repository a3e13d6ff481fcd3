"""Projects whose publications are killed, crowded and read meanwhile.

A reader must always find the last good snapshot: whole, and never older than one that was seen before.
"""

from __future__ import annotations

import asyncio
import json
import random
import shutil
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from tests.support.processes.preloaded import PLAIN, run_preloaded
from tests.support.processes.running import start
from tests.support.servers.s3 import REGION

from flowbed.index.active_space import require_collection
from flowbed.index.datasets import Datasets
from flowbed.publish.chroma import Snapshot, current_snapshot, read_pointer
from flowbed.publish.chroma.pull import Pulled, pull
from flowbed.storage import open_store
from flowbed.testing.index import Row, contents

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from tests.support.processes.running import Forked

    from flowbed.storage import Store

COLLECTION = "notes"
SETTINGS = """\
model = "seeded:16"
{store}
[sources.notes]
kind = "jsonl"
location = "notes.jsonl"

[publish.notes]
kind = "chroma"
every = "manual"
"""


class Wrong(AssertionError):  # noqa: N818 - as in torture: an answer that is wrong
    """A reader would have seen something that it must not."""


def read_plainly(directory: Path, name: str = COLLECTION) -> dict[str, Any]:
    """Read a Chroma directory, which is changed by that, with chromadb alone and in a process of its own."""
    done = run_preloaded(PLAIN, str(directory), name)
    if done.returncode:
        raise Wrong(f"Chroma cannot read {directory}: {done.returncode} {done.stderr[-500:]}")
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


@dataclass
class PublishedProject:
    """A project with one collection, in a folder or over S3 at `s3`; its commands may meet faults at `proxy`."""

    folder: Path
    variables: Mapping[str, str]
    store_url: str = ""
    s3: str = ""
    seed: int = 1
    last: Snapshot | None = None  # as a reader saw it
    texts: dict[str, str] = field(default_factory=dict)
    turn: int = 0

    def __post_init__(self) -> None:
        """Write the settings and the first notes."""
        self.chance = random.Random(self.seed)
        self.folder.mkdir(parents=True, exist_ok=True)
        named = f'store = "{self.store_url}"\n' if self.store_url else ""
        (self.folder / "flowbed.toml").write_text(SETTINGS.format(store=named), "utf-8")
        self.texts = {f"n{number:04d}": f"note {number}" for number in range(60)}
        self._write()

    def edit(self) -> None:
        """Change, delete and add a few notes; now and then many."""
        self.turn += 1
        many = self.chance.random() < 0.1
        for name in self.chance.sample(sorted(self.texts), min(len(self.texts), 30 if many else 3)):
            self.texts[name] = f"note {name} at turn {self.turn}"
        for name in self.chance.sample(sorted(self.texts), 1):
            del self.texts[name]
        self.texts[f"t{self.turn:04d}"] = f"new at turn {self.turn}"
        self._write()

    def _write(self) -> None:
        # Every second note has a field that the others lack, and edits move it.
        rows = [
            {"id": name, "text": text, "turn": self.turn, **({"odd": "yes"} if len(text) % 2 else {})}
            for name, text in self.texts.items()
        ]
        (self.folder / "notes.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows), "utf-8")

    def start(self, *arguments: str, at: str = "", ahead: int = 0) -> Forked:
        """Start a command, which the named point kills, and whose clock is `ahead` µs ahead."""
        return start(
            *arguments, "--json", "-v", folder=self.folder, variables=self.variables, point=at, ahead=ahead
        )

    @property
    def store(self) -> Store:
        """The store, without faults."""
        if self.s3:
            return open_store(
                self.store_url, folder=self.folder, options={"endpoint": self.s3, "region": REGION}
            )
        return open_store(".flowbed/store", folder=self.folder)

    async def look(self, into: Path) -> Pulled | None:
        """Pull as a reader does, which checks every byte; fail if the pointer went back or names what is not whole."""
        store = self.store
        if await read_pointer(store, COLLECTION) is None:
            if self.last is not None:
                raise Wrong("the pointer is gone")
            return None
        seen = await current_snapshot(store, COLLECTION)
        if self.last is not None and (seen.version, seen.index_version) < (
            self.last.version,
            self.last.index_version,
        ):
            raise Wrong(f"the pointer went back from {self.last.version} to {seen.version}")
        if self.last is not None and seen.index_version < self.last.index_version:
            raise Wrong(f"the index version went back from {self.last.index_version} to {seen.index_version}")
        self.last = seen
        return await pull(store, COLLECTION, into)

    async def rows_at(self, version: int) -> Mapping[str, Row]:
        """Read the rows of a version of the index."""
        live = await require_collection(self.store, COLLECTION)
        dataset = await Datasets(self.store).open(live, version=version)
        if dataset is None:
            raise Wrong("there is no index")
        found = await asyncio.to_thread(lambda: dataset.to_table(filter="deleted = false").to_pylist())
        return {
            row["id"]: Row(
                text_hash=row["text_hash"],
                document=row["document"],
                metadata=json.loads(row["metadata"]),
                vector=np.asarray(row["vector"], np.float32),
            )
            for row in found
        }

    async def compare(self, into: Path) -> int:
        """Open what the pointer names with chromadb alone, and compare it with the index; return the number of rows."""
        done = await self.look(into)
        if done is None:
            raise Wrong("nothing is published")
        copy = into / "opened"
        shutil.rmtree(copy, ignore_errors=True)
        await asyncio.to_thread(shutil.copytree, done.path, copy)
        found = await asyncio.to_thread(read_plainly, copy)
        rows = (await contents(self.store)).rows.get(COLLECTION, {})
        if fault := difference(found, rows):
            raise Wrong(fault)
        return len(rows)


def difference(found: Mapping[str, Any], rows: Mapping[str, Row]) -> str:
    """Say how what a plain client finds differs from the index; an empty text if it does not."""
    if (found["count"], sorted(found["ids"])) != (len(rows), sorted(rows)):
        return f"{found['count']} rows are published, and the index has {len(rows)}"
    shown = zip(found["ids"], found["documents"], found["metadatas"], found["vectors"], strict=True)
    for name, document, metadata, vector in shown:
        row = rows[name]
        if (document, metadata or {}) != (row.document, dict(row.metadata)):
            return f"{name} differs: {document!r} {metadata} instead of {row.document!r} {dict(row.metadata)}"
        if not np.allclose(vector, row.vector, atol=1e-3):
            return f"{name} has another vector"
    return ""
