"""How many rows a snapshot really holds, read off its database without Chroma."""

from __future__ import annotations

import asyncio
import shutil
import sqlite3
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from flowbed.errors import Rejected
from flowbed.publish.chroma.files import download

if TYPE_CHECKING:
    from flowbed.publish.chroma import Snapshot
    from flowbed.storage import Store

DATABASE = "chroma.sqlite3"
# Chroma keeps a row's id and metadata in the segment of this scope, and its vector in another.
_COUNT = """
SELECT count(*) FROM embeddings WHERE segment_id IN (
    SELECT segments.id FROM segments JOIN collections ON segments.collection = collections.id
    WHERE segments.scope = 'METADATA' AND collections.name = ?
)
"""


async def rows_held(store: Store, snapshot: Snapshot, scratch: Path) -> int:
    """Download the database of a snapshot into a folder below `scratch`, check its hash, and count its rows.

    Raises:
        Rejected: there is no database, it is not the one of the file list, or it is not Chroma's.
    """
    if DATABASE not in snapshot.files:
        raise Rejected(f"snapshot {snapshot.version} has no {DATABASE}")
    await asyncio.to_thread(scratch.mkdir, parents=True, exist_ok=True)
    folder = Path(await asyncio.to_thread(tempfile.mkdtemp, prefix="rows-", dir=scratch))
    try:
        await download(store, snapshot, DATABASE, folder / DATABASE)
        return await asyncio.to_thread(_count, folder / DATABASE, snapshot.name)
    finally:
        await asyncio.to_thread(shutil.rmtree, folder, ignore_errors=True)


def _count(path: Path, name: str) -> int:
    try:
        database = sqlite3.connect(f"{path.as_uri()}?mode=ro&immutable=1", uri=True)
        try:
            database.execute("PRAGMA trusted_schema = OFF")
            (rows,) = database.execute(_COUNT, (name,)).fetchone()
        finally:
            database.close()
    except sqlite3.Error as error:
        raise Rejected(f"{DATABASE} cannot be read: {error}") from error
    return int(rows)
