"""The tiers of the vector cache: memory, and a file that processes share."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import sqlite3
import subprocess
import sys
import time
from typing import TYPE_CHECKING, Any

import pytest

from flowbed.embedding.cache.disk import VectorFile
from flowbed.embedding.cache.memory import OVERHEAD, VectorMemory
from flowbed.errors import Misconfigured

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

PLENTY = 10**9


class Clock:
    """A clock that the test sets."""

    def __init__(self) -> None:
        self.now = 1e9

    def __call__(self) -> float:
        return self.now


def entries(count: int, *, size: int = 1536, first: int = 0) -> dict[bytes, bytes]:
    return {place.to_bytes(32, "big"): os.urandom(size) for place in range(first, first + count)}


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
async def file(tmp_path: Path, clock: Clock) -> AsyncIterator[VectorFile]:
    opened = VectorFile(tmp_path / "vectors.db", limit=PLENTY, clock=clock)
    yield opened
    await opened.close()


async def test_disk_tier_returns_stored_vectors(file: VectorFile) -> None:
    """Byte for byte; unknown keys are missing."""
    kept = entries(2500)
    await file.put_many(kept)
    assert await file.get_many([*kept, b"\xff" * 32]) == kept
    assert await file.get_many([]) == {}
    await file.put_many({})


async def test_disk_tier_same_key_replaces_the_vector(file: VectorFile) -> None:
    await file.put_many({b"k" * 32: b"one"})
    await file.put_many({b"k" * 32: b"two"})
    assert await file.get_many([b"k" * 32]) == {b"k" * 32: b"two"}


def flipped(stored: bytes, place: int) -> bytes:
    """Flip one bit."""
    return stored[:place] + bytes([stored[place] ^ 1]) + stored[place + 1 :]


@pytest.mark.parametrize("place", [0, 700, 1535, -1, -5])
async def test_disk_tier_flipped_bit_loses_the_vector(tmp_path: Path, clock: Clock, place: int) -> None:
    """And no other one; it can be stored again."""
    path, kept = tmp_path / "vectors.db", entries(2)
    first, second = kept
    opened = VectorFile(path, limit=PLENTY, clock=clock)
    await opened.put_many(kept)
    with contextlib.closing(sqlite3.connect(path)) as connection, connection:
        ((stored,),) = connection.execute("SELECT vector FROM vectors WHERE key = ?", [first]).fetchall()
        connection.execute("UPDATE vectors SET vector = ? WHERE key = ?", [flipped(stored, place), first])
    found = await opened.get_many(list(kept))
    assert found[second] == kept[second]
    # Where the seal itself is unreadable, the value is of no length that a vector has.
    assert found.get(first, b"") != kept[first]
    await opened.put_many(kept)
    assert await opened.get_many(list(kept)) == kept
    await opened.close()


async def test_disk_tier_vector_under_another_key_is_lost(tmp_path: Path, clock: Clock) -> None:
    """Exchanged values are whole, and of other texts."""
    path, kept = tmp_path / "vectors.db", entries(2)
    opened = VectorFile(path, limit=PLENTY, clock=clock)
    await opened.put_many(kept)
    with contextlib.closing(sqlite3.connect(path)) as connection, connection:
        rows = dict(connection.execute("SELECT key, vector FROM vectors").fetchall())
        first, second = rows
        for key, other in ((first, second), (second, first)):
            connection.execute("UPDATE vectors SET vector = ? WHERE key = ?", [rows[other], key])
    assert await opened.get_many(list(kept)) == {}
    await opened.close()


async def test_disk_tier_vector_of_an_earlier_version_is_found(tmp_path: Path, clock: Clock) -> None:
    """It has no seal."""
    path = tmp_path / "vectors.db"
    opened = VectorFile(path, limit=PLENTY, clock=clock)
    await opened.put_many({b"k" * 32: b"one"})
    with contextlib.closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("UPDATE vectors SET vector = ?", [bytes(1536)])
    assert await opened.get_many([b"k" * 32]) == {b"k" * 32: bytes(1536)}
    await opened.close()


async def test_disk_tier_reopened_file_keeps_vectors(tmp_path: Path, clock: Clock) -> None:
    kept = entries(3)
    for _ in range(2):
        opened = VectorFile(tmp_path / "deep" / "vectors.db", limit=PLENTY, clock=clock)
        await opened.put_many(kept)
        await opened.close()
        assert await opened.get_many(list(kept)) == kept
        await opened.close()


async def test_disk_tier_size_stays_within_the_limit(tmp_path: Path, clock: Clock) -> None:
    """It keeps the newest vectors."""
    limit = 4_000_000
    opened = VectorFile(tmp_path / "vectors.db", limit=limit, clock=clock)
    for first in range(0, 20_000, 500):
        newest = entries(500, first=first)
        await opened.put_many(newest)
    assert await opened.get_many(list(newest)) == newest
    await opened.close()
    assert limit / 2 < (tmp_path / "vectors.db").stat().st_size < limit * 1.1


async def test_disk_tier_drops_least_recently_used_first(tmp_path: Path, clock: Clock) -> None:
    opened = VectorFile(tmp_path / "vectors.db", limit=3_000_000, clock=clock)
    old = entries(1000)
    await opened.put_many(old)
    used = list(old)[:100]
    clock.now += 7200
    await opened.get_many(used)
    for first in range(1000, 2500, 100):
        await opened.put_many(entries(100, first=first))
    left = await opened.get_many(list(old))
    await opened.close()
    assert set(used) <= set(left)
    assert len(left) < 600


async def test_disk_tier_vector_larger_than_the_limit_is_harmless(tmp_path: Path, clock: Clock) -> None:
    opened = VectorFile(tmp_path / "vectors.db", limit=1, clock=clock)
    for first in range(0, 5000, 1000):
        await opened.put_many(entries(1000, first=first))
    await opened.close()
    assert (tmp_path / "vectors.db").stat().st_size < 4_000_000


def ruin_all(path: Path) -> None:
    path.write_bytes(b"this is no database" * 1000)


def ruin_the_middle(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[16_384:] = os.urandom(len(content) - 16_384)
    path.write_bytes(content)


@pytest.mark.parametrize("ruin", [ruin_all, ruin_the_middle])
async def test_disk_tier_damaged_file_is_replaced(
    tmp_path: Path, clock: Clock, caplog: pytest.LogCaptureFixture, ruin: Any
) -> None:
    """It is set aside with a warning, and vectors are stored again."""
    path = tmp_path / "vectors.db"
    opened = VectorFile(path, limit=PLENTY, clock=clock)
    kept = entries(1000)
    await opened.put_many(kept)
    await opened.close()
    ruin(path)
    assert await opened.get_many(list(kept)) == {}
    await opened.put_many(kept)
    assert await opened.get_many(list(kept)) == kept
    await opened.close()
    assert "replaced by an empty one" in caplog.text
    assert (tmp_path / "vectors.db.damaged").exists()


async def test_disk_tier_file_replaced_by_another_process_is_joined(tmp_path: Path, clock: Clock) -> None:
    path = tmp_path / "vectors.db"
    first = VectorFile(path, limit=PLENTY, clock=clock)
    second = VectorFile(path, limit=PLENTY, clock=clock)
    kept = entries(1000)
    await first.put_many(kept)
    await first.close()
    ruin_all(path)
    await first.put_many(kept)
    assert await second.get_many(list(kept)) == kept
    await first.close()
    await second.close()


async def test_disk_tier_unusable_path_is_misconfigured(tmp_path: Path, clock: Clock) -> None:
    (tmp_path / "vectors.db").mkdir()
    opened = VectorFile(tmp_path / "vectors.db", limit=PLENTY, clock=clock)
    with pytest.raises(Misconfigured, match="cannot be used"):
        await opened.get_many([b"k" * 32])
    await opened.close()


WRITER = """
import asyncio, os, sys, time
from pathlib import Path
from flowbed.embedding.cache.disk import VectorFile

async def main():
    opened = VectorFile(Path(sys.argv[1]), limit=10**9, clock=time.time)
    for number in range(10**6):
        await opened.put_many({os.urandom(32): bytes([number % 256]) * 1536 for _ in range(200)})
        sys.stdout.write("put\\n")
        sys.stdout.flush()

asyncio.run(main())
"""


def test_disk_tier_killed_writer_leaves_a_sound_file(tmp_path: Path) -> None:
    """After kill -9 during a write, everything acknowledged is there."""
    path = tmp_path / "vectors.db"
    writer = subprocess.Popen([sys.executable, "-c", WRITER, str(path)], stdout=subprocess.PIPE, text=True)
    assert writer.stdout is not None
    acknowledged = sum(1 for _, line in zip(range(5), writer.stdout, strict=False) if line == "put\n")
    time.sleep(0.02)
    writer.send_signal(signal.SIGKILL)
    writer.wait()
    writer.stdout.close()
    connection = sqlite3.connect(path)
    assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
    assert connection.execute("SELECT count(*) FROM vectors").fetchone()[0] >= 200 * acknowledged
    connection.close()


def fill(path: str, first: int, done: Any) -> None:
    import asyncio
    from pathlib import Path

    async def work() -> None:
        opened = VectorFile(Path(path), limit=PLENTY, clock=time.time)
        for start in range(first, first + 2000, 100):
            kept = entries(100, first=start)
            await opened.put_many(kept)
            assert await opened.get_many(list(kept)) == kept
        await opened.close()

    asyncio.run(work())
    done.put(first)


async def test_disk_tier_processes_share_one_file(tmp_path: Path, clock: Clock) -> None:
    """Processes that create a file at once and write to it all keep what they put."""
    path = tmp_path / "vectors.db"
    spawn = multiprocessing.get_context("spawn")
    done = spawn.Queue()
    processes = [spawn.Process(target=fill, args=(str(path), first, done)) for first in (0, 10_000, 20_000)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(timeout=120)
    assert sorted(done.get(timeout=10) for _ in processes) == [0, 10_000, 20_000]
    opened = VectorFile(path, limit=PLENTY, clock=clock)
    keys = [
        place.to_bytes(32, "big") for first in (0, 10_000, 20_000) for place in range(first, first + 2000)
    ]
    assert len(await opened.get_many(keys)) == 6000
    await opened.close()


async def test_memory_tier_vector_expires(clock: Clock) -> None:
    memory = VectorMemory(limit=10**6, ttl=60, clock=clock)
    kept = entries(3)
    await memory.put_many(kept)
    assert await memory.get_many([*kept, b"?" * 32]) == kept
    clock.now += 61
    assert await memory.get_many(list(kept)) == {}


async def test_memory_tier_drops_least_recently_used_within_its_limit(clock: Clock) -> None:
    """Vectors larger than the limit are not stored."""
    memory = VectorMemory(limit=10 * (1536 + OVERHEAD), ttl=60, clock=clock)
    kept = entries(10)
    await memory.put_many(kept)
    first, *rest = kept
    await memory.get_many([first])
    await memory.put_many(entries(1, first=100))
    assert set(await memory.get_many(list(kept))) == {first, *rest[1:]}
    await memory.put_many({b"giant" * 6 + b"..": bytes(10**6)})
    assert len(await memory.get_many(list(kept))) == 9
