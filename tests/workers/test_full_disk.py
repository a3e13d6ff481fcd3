"""Workers wait while the disk of their Postgres is full."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from tests.support.counting import CountingProcess
from tests.support.servers.postgres import PostgresServer
from tests.workers.test_worker_processes import TEXTS, Fleet, until

from flowbed.bed import aopen

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import NoReturn


SIZE = 160  # MB: an empty server takes a quarter of it


@pytest.fixture
def small_disk(lacking: Callable[[str], NoReturn]) -> Iterator[Path]:
    """Mount a small disk, which a server of Postgres may enter."""
    mount, umount = shutil.which("mount"), shutil.which("umount")
    if os.geteuid() != 0 or mount is None or umount is None:
        lacking("mounting a small disk needs root")
    place = Path(tempfile.mkdtemp(prefix="flowbed-disk-"))
    mounted = subprocess.run(
        [mount, "-t", "tmpfs", "-o", f"size={SIZE}m,mode=0755", "tmpfs", place], check=False
    )
    if mounted.returncode:
        lacking("this machine mounts no disk")
    yield place
    subprocess.run([umount, "-l", place], check=False)
    place.rmdir()


def fill(place: Path) -> Path:
    """Write a file that takes all that is free."""
    file = place / "full"
    with file.open("wb", buffering=0) as out:
        try:
            while True:
                out.write(b"x" * 65_536)
        except OSError:
            return file


@pytest.mark.long
async def test_workers_full_disk_of_postgres_is_waited_for_and_said_once(
    tmp_path: Path, small_disk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(small_disk))
    with PostgresServer(durable=True) as postgres, CountingProcess(delay=0.1) as slow:
        monkeypatch.setattr(tempfile, "tempdir", None)
        url = postgres.database()
        monkeypatch.setenv("FLOWBED_LEDGER", url)
        fleet = Fleet(tmp_path / "project", url, slow)
        async with await aopen(fleet.folder) as fleet.bed:
            fleet.start()
            await until(lambda: len(slow.report().texts) > TEXTS)
            file = fill(small_disk)
            # The server crashes where it cannot write its log, and cannot start again before there is room.
            began = time.monotonic()
            await until(lambda: "waiting for" in fleet.log(0) or time.monotonic() - began > 20)
            file.unlink()
            if not postgres.answers():
                postgres.stop()
                postgres.start()
            await until(fleet.done)
            assert fleet.log(0).count("nothing is lost") == 1, fleet.log(0)
            for each in fleet.started:
                each.kill()
                await each.ended()
        assert set(slow.report().texts.values()) == {1}
