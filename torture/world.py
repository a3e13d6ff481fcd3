"""The data of the load: records that are edited, deleted and restored, and groups of rows that change together.

Everything about a revision follows from its number, so any process can tell whether it is right.
"""

from __future__ import annotations

import json
import random
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from torture.documents import sentence

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

MODEL, DIMENSIONS = "seeded:32", 32
KEYS = 30  # records of each source
GROUPS, MEMBERS = 12, 10
TOGETHER = "groups"  # the collection of the groups
COLLECTIONS = ("even", "odd", TOGETHER)

_TEXT = re.compile(r"key (\d+) revision (\d+): ")
_MEMBER = re.compile(r"group (\d+) member (\d+) revision (\d+)")


@dataclass(frozen=True)
class World:
    """The number of processes of each kind; two fetching processes share a source, which one of them edits."""

    processes: int

    @property
    def sources(self) -> int:
        """Count the sources."""
        return (self.processes + 1) // 2

    @property
    def keys(self) -> int:
        """Count the records of all sources."""
        return self.sources * KEYS

    def keys_of(self, source: int) -> range:
        """Name the records of a source."""
        return range(source * KEYS, (source + 1) * KEYS)


def source_name(number: int) -> str:
    """Name a source."""
    return f"source{number}"


def collection_of(key: int) -> str:
    """Return the collection of a record."""
    return COLLECTIONS[key // KEYS % 2]


def text(key: int, revision: int) -> str:
    """Write the text of a record."""
    return f"key {key} revision {revision}: {sentence(random.Random(f'{key} {revision}'), 6)}"


def revision_of(document: str) -> tuple[int, int] | None:
    """Return key and revision of a text; None if it is not a record's."""
    found = _TEXT.match(document)
    if found is None or text(int(found[1]), int(found[2])) != document:
        return None
    return int(found[1]), int(found[2])


def deleted(key: int, revision: int) -> bool:
    """Return whether this revision deletes a record: some come and go, the others stay forever."""
    return key % 3 == 0 and revision % 4 == 0


def write_source(folder: Path, source: int, revisions: Mapping[int, int]) -> None:
    """Write a source's records at these revisions, atomically."""
    records = [
        {"id": f"k{key}", "text": text(key, revision), "key": key, "revision": revision}
        for key, revision in revisions.items()
        if revision and not deleted(key, revision)
    ]
    draft = folder / f".{source_name(source)}"
    draft.write_text("".join(f"{json.dumps(record)}\n" for record in records), "utf-8")
    draft.rename(folder / f"{source_name(source)}.jsonl")


def settings(world: World) -> str:
    """Write the settings of the project."""
    tables = [
        f'[sources.{source_name(number)}]\nkind = "jsonl"\nlocation = "{source_name(number)}.jsonl"\n'
        f'collection = "{COLLECTIONS[number % 2]}"\noptions = {{ metadata = ["key", "revision"] }}\n'
        for number in range(world.sources)
    ]
    return "\n".join([f'model = "{MODEL}"\n', *tables])


def member(group: int, number: int, revision: int) -> str:
    """Write the text of one row of a group."""
    return f"group {group} member {number} revision {revision}"


def member_of(document: str) -> tuple[int, int, int] | None:
    """Return group, number and revision of a text; None if it is not a group's."""
    found = _MEMBER.fullmatch(document)
    return (int(found[1]), int(found[2]), int(found[3])) if found else None


def removes(revision: int) -> bool:
    """Return whether this revision deletes the whole group."""
    return revision // 32 % 5 == 0
