"""Stores in a folder: concurrent processes, kill -9, full disks and permissions."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from flowbed.errors import Conflict, Misconfigured, Rejected
from flowbed.storage import Store, open_store
from flowbed.testing.storage import StoreContract, halves, keys


class TestFiles(StoreContract):
    """A store in a folder fulfils the contract."""

    def open_store(self, folder: Path) -> Store:
        return open_store("file://store", folder=folder)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return open_store(str(tmp_path / "store"), folder=tmp_path)


def start(code: str, folder: Path) -> subprocess.Popen[str]:
    """Run code in a process that has `store` open, and a function `say`."""
    prelude = (
        "import asyncio, os, sys, pathlib, resource\nfrom flowbed.errors import *\n"
        "from flowbed.storage import open_store\nfrom flowbed.testing.storage import count_up\n"
        f"store = open_store('store', folder=pathlib.Path({str(folder)!r}))\n"
        "say = lambda *words: print(*words, flush=True)\n"
    )
    return subprocess.Popen([sys.executable, "-c", prelude + code], stdout=subprocess.PIPE, text=True)


def finish(process: subprocess.Popen[str]) -> str:
    output, _ = process.communicate()
    assert process.returncode == 0
    return output.strip()


@pytest.mark.parametrize(
    ("url", "place"),
    [
        ("store", "store"),
        ("./a/../store", "store"),
        ("file://store", "store"),
        ("file://{folder}/with%20space", "with space"),
        ("{folder}/100%25 #1", "100%25 #1"),
    ],
)
async def test_open_store_by_path_or_url(tmp_path: Path, url: str, place: str) -> None:
    """A path is used as it is, a URL is decoded, and a relative one is below the given folder."""
    store = open_store(url.format(folder=tmp_path), folder=tmp_path)
    await store.put("k", b"x")
    assert (tmp_path / place / "k").read_bytes() == b"x"
    assert store.location("a/b").uri == str(tmp_path / place / "a" / "b")
    assert (await open_store(store.url, folder=Path("/")).get("k")).body == b"x"


@pytest.mark.parametrize("url", ["gs://bucket", "http://host"])
def test_open_store_unknown_scheme_is_refused(tmp_path: Path, url: str) -> None:
    """An unsupported scheme is refused by name."""
    with pytest.raises(
        Misconfigured, match=rf"{url}.*{url.partition(':')[0]}:// is not built into this version"
    ):
        open_store(url, folder=tmp_path)


@pytest.mark.parametrize("url", ["s3:bucket", "file:/folder", "memory:"])
def test_open_store_address_without_slashes_is_no_folder(tmp_path: Path, url: str) -> None:
    with pytest.raises(Misconfigured, match="lacks the slashes"):
        open_store(url, folder=tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_replace_concurrent_processes_lose_nothing(tmp_path: Path) -> None:
    """3 processes that increment one number by replacing it lose no step."""
    asyncio.run(open_store("store", folder=tmp_path).create("counter", b"0 by nobody"))
    code = (
        "async def main():\n    for step in range(25):\n"
        "        await count_up(store, 'counter', f'{os.getpid()}.{step}')\nasyncio.run(main())"
    )
    for process in [start(code, tmp_path) for _ in range(3)]:
        finish(process)
    assert (tmp_path / "store" / "counter").read_bytes().startswith(b"75 by")


def test_create_concurrent_processes_one_wins(tmp_path: Path) -> None:
    """Of 3 processes that create the same 25 keys, one succeeds per key."""
    code = (
        "async def main():\n    won = 0\n    for number in range(25):\n        try:\n"
        "            await store.create(f'k/{number}', str(os.getpid()).encode())\n            won += 1\n"
        "        except Conflict:\n            pass\n    say(os.getpid(), won)\nasyncio.run(main())"
    )
    won = dict(finish(process).split() for process in [start(code, tmp_path) for _ in range(3)])
    kept = [file.read_text() for file in (tmp_path / "store" / "k").iterdir()]
    assert sum(map(int, won.values())) == 25
    assert {pid: str(kept.count(pid)) for pid in won} == won


async def test_put_killed_leaves_the_old_object(tmp_path: Path) -> None:
    """After kill -9 during a write, the old object remains, and a later process removes the unfinished file."""
    store = open_store("store", folder=tmp_path)
    await store.put("k", b"old")
    code = (
        "async def pieces():\n    yield b'x' * 5_000_000\n    say('begun')\n    await asyncio.Event().wait()\n"
        "asyncio.run(store.put('k', pieces()))"
    )
    process = start(code, tmp_path)
    with process:
        assert process.stdout is not None
        assert process.stdout.readline() == "begun\n"
        unfinished = tmp_path / "store" / ".store" / "writing"
        (left,) = unfinished.iterdir()
        # The unfinished file of a living process is left alone.
        await open_store("store", folder=tmp_path).put("other", b"x")
        assert left.exists()
        process.send_signal(signal.SIGKILL)
    assert (await store.get("k")).body == b"old"
    assert await keys(store, "") == ["k", "other"]
    await open_store("store", folder=tmp_path).put("k", b"new")
    assert list(unfinished.iterdir()) == []


async def test_lock_of_killed_process_is_free(tmp_path: Path) -> None:
    """A process killed while holding the lock of a key leaves the key writable."""
    code = (
        "from flowbed.storage.writing import locked\nfolder = store.root / '.store'\n"
        "with locked(folder, store.root / 'k'):\n    say('held')\n    os.kill(os.getpid(), 9)"
    )
    with start(code, tmp_path) as process:
        process.wait()
    store = open_store("store", folder=tmp_path)
    await store.create("k", b"x")
    assert (await store.get("k")).body == b"x"


def test_full_disk_loses_nothing(tmp_path: Path) -> None:
    """Without room, the error names the key, the old object remains, and nothing is left over."""
    asyncio.run(open_store("store", folder=tmp_path).put("k", b"old"))
    code = (
        "resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, 1 << 20))\n"
        "async def pieces():\n    yield b'x' * 5_000_000\n"
        "async def main():\n    for body in (b'x' * 5_000_000, pieces()):\n        try:\n"
        "            await store.put('k', body)\n        except OutOfSpace as error:\n            say(error)\n"
        "asyncio.run(main())"
    )
    said = finish(start(code, tmp_path)).splitlines()
    assert len(said) == 2
    assert all("'k'" in line and "nothing stored before is lost" in line for line in said)
    assert (tmp_path / "store" / "k").read_bytes() == b"old"
    assert list((tmp_path / "store" / ".store" / "writing").iterdir()) == []


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
async def test_put_without_permission_is_misconfigured(store: Store, tmp_path: Path) -> None:
    """A folder without write permission is misconfigured, and the message names it."""
    (tmp_path / "store").chmod(0o500)
    with pytest.raises(Misconfigured, match="permission"):
        await store.put("k", b"x")


def test_open_store_below_a_file_is_misconfigured(tmp_path: Path) -> None:
    """A store whose folder cannot be created is refused on opening."""
    (tmp_path / "file").write_text("x")
    with pytest.raises(Misconfigured, match="cannot be created"):
        open_store("file/store", folder=tmp_path)


async def test_key_below_an_object_is_rejected(store: Store) -> None:
    """One name cannot be both an object and a folder; the write is rejected and the old object remains."""
    await store.put("a/b", b"x")
    with pytest.raises(Rejected, match="a"):
        await store.put("a", b"x")
    with pytest.raises(Rejected, match="a/b/c"):
        await store.put("a/b/c", b"x")
    with pytest.raises(Conflict):
        await store.create("a", b"x")
    assert await keys(store, "") == ["a/b"]


async def test_reserved_folder_is_not_accessible(store: Store) -> None:
    """Nobody can read, write or list the locks and unfinished files."""
    await store.put("k", b"x")
    with pytest.raises(Rejected, match="reserved for the store"):
        await store.put(".store/writing/x", b"x")
    with pytest.raises(Rejected, match="reserved for the store"):
        await keys(store, ".store")
    assert await keys(store, "") == ["k"]


async def test_put_during_prune_loses_nothing(store: Store) -> None:
    """Writing into a folder while others empty and prune it loses no write."""

    async def write_and_remove(name: int) -> None:
        for number in range(30):
            await store.put(f"deep/er/{name}-{number}", b"x")
            await store.delete([f"deep/er/{name}-{number}"])
        await store.put(f"deep/er/{name}", halves(b"kept"))

    await asyncio.gather(*(write_and_remove(name) for name in range(4)))
    assert await keys(store, "") == [f"deep/er/{name}" for name in range(4)]


async def test_put_cancelled_is_over_when_it_returns(store: Store, tmp_path: Path) -> None:
    """After a cancelled put has raised, nothing more is written: the object is the new or the old one, whole."""
    await store.put("k", b"old")
    for moment in range(20):
        task = asyncio.create_task(store.put("k", b"n" * 1_000_000))
        for _ in range(moment):
            await asyncio.sleep(0)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        assert (await store.get("k")).body in {b"old", b"n" * 1_000_000}
        assert list((tmp_path / "store" / ".store" / "writing").iterdir()) == []
