"""Stores in memory."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from flowbed.storage import Store, open_store
from flowbed.testing.storage import StoreContract


class TestMemory(StoreContract):
    """A store in memory fulfils the contract."""

    in_memory = True

    def open_store(self, folder: Path) -> Store:
        return open_store("memory://", folder=folder)


async def test_named_memory_store_is_shared(tmp_path: Path) -> None:
    """`memory://name` is one store per process; `memory://` alone is private."""
    await open_store("memory://shared-by-name", folder=tmp_path).put("k", b"x")
    await open_store("memory://", folder=tmp_path).put("k", b"y")
    assert (await open_store("memory://shared-by-name", folder=tmp_path).get("k")).body == b"x"
    assert [listed async for listed in open_store("memory://", folder=tmp_path).list("")] == []


def test_temporary_folder_is_removed_at_exit() -> None:
    """Lance's folder of a store in memory is removed when the process ends."""
    code = (
        "import pathlib; from flowbed.storage import open_store\n"
        "place = pathlib.Path(open_store('memory://', folder=pathlib.Path()).location('c/index/x.lance').uri)\n"
        "place.mkdir(parents=True); (place / 'file').write_text('x'); print(place)"
    )
    ran = subprocess.run(
        [sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=True
    )
    assert ran.stderr == ""
    place = Path(ran.stdout.strip())
    assert place.parts[-3:] == ("c", "index", "x.lance")
    assert not place.parents[2].exists()
