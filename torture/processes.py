"""Processes forked from one that has loaded everything, which saves a second of start-up each time.

Nothing loaded has been used before the fork, so only the forking thread exists.
"""

from __future__ import annotations

import asyncio
import json
import multiprocessing
import os
import signal
import sys
import traceback
import warnings
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

# Lance warns of every fork because its threads would be missing; before its first use it has none.
warnings.filterwarnings("ignore", "lance is not fork-safe")

import alembic.command  # noqa: E402, F401 - loaded before any process is forked off, as the next ones are
from tests.support.failpoints import kill_at  # noqa: E402
from tests.support.killing import PATIENCE, Ran  # noqa: E402

from flowbed.cli.app import run  # noqa: E402
from flowbed.wiring import process  # noqa: E402

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from multiprocessing.process import BaseProcess
    from pathlib import Path

FORKS = multiprocessing.get_context("forkserver")
FORKS.set_forkserver_preload(["torture.processes"])
OUTPUTS = (".out", ".err")  # files for output and log
STATUS = ".status"  # file for the exit status
# What multiprocessing reports if two threads wait for the end of a process at the same time: only one gets the status.
LOST = 255


@dataclass(frozen=True)
class Forked:
    """A forked process, the leader of its own process group, with its output in two files."""

    process: BaseProcess
    log: Path

    async def ended(self, patience: float = PATIENCE) -> Ran:
        """Wait for its end, for at most `patience` seconds."""
        await asyncio.to_thread(self.process.join, patience)
        hangs = self.process.exitcode is None
        if hangs:
            self.kill()
            await asyncio.to_thread(self.process.join)
        returncode = self.process.exitcode
        self.process.close()
        if returncode == LOST:
            said = self.log.with_suffix(STATUS).read_text("utf-8")
            returncode = int(said) if said else -signal.SIGKILL
        stdout, stderr = (self.log.with_suffix(each).read_text("utf-8", "replace") for each in OUTPUTS)
        if hangs:
            raise TimeoutError(f"a process took more than {patience:.0f} s; see {self.log}.err")
        assert returncode is not None
        return Ran(returncode=returncode, stdout=stdout, stderr=stderr)

    def kill(self) -> None:
        """End it and everything it has started, as `kill -9` does."""
        pid = self.process.pid
        assert pid is not None
        for kill in (os.kill, os.killpg):  # the group does not exist before the process runs
            with suppress(ProcessLookupError):
                kill(pid, signal.SIGKILL)


def forked(log: Path, variables: Mapping[str, str], work: Callable[..., int], *arguments: object) -> Forked:
    """Fork a process that does `work`, whose result is its exit status; `log` names its output files."""
    for suffix in (*OUTPUTS, STATUS):
        log.with_suffix(suffix).touch()  # it may be killed before it starts
    process = FORKS.Process(target=_carry_out, args=(log, dict(variables), work, arguments), daemon=True)
    process.start()
    return Forked(process, log)


async def answered(
    log: Path,
    variables: Mapping[str, str],
    work: Callable[..., int],
    *arguments: object,
    patience: float = PATIENCE,
) -> dict[str, Any]:
    """Do `work` in such a process, and parse the JSON that it prints last."""
    ran = await forked(log, variables, work, *arguments).ended(patience)
    if ran.returncode:
        raise RuntimeError(f"{work.__name__} failed: {ran.stderr}")
    answer: dict[str, Any] = ran.report
    return answer


def command(folder: Path, arguments: Sequence[str], point: str, ahead: int) -> int:
    """Run one `flowbed` command in `folder`, up to POINT:N if one is named, with the clock `ahead` µs fast."""
    os.chdir(folder)
    if point:
        name, _, nth = point.partition(":")
        kill_at(name, int(nth))
    clock = process.now
    process.now = lambda: clock() + ahead
    return run(arguments)


def say(answer: Mapping[str, Any]) -> int:
    """Print an answer."""
    print(json.dumps(answer), flush=True)
    return 0


def _carry_out(
    log: Path, variables: Mapping[str, str], work: Callable[..., int], arguments: Sequence[Any]
) -> None:
    os.setsid()
    for stream, suffix in enumerate(OUTPUTS, 1):
        file = os.open(log.with_suffix(suffix), os.O_WRONLY)
        os.dup2(file, stream)
        os.close(file)
    for name in [name for name in os.environ if name.startswith(("FLOWBED_", "AWS_"))]:
        del os.environ[name]
    os.environ.update(variables)
    try:
        status = work(*arguments)
    except SystemExit as ended:
        status = ended.code if isinstance(ended.code, int) else 1
    except BaseException:  # noqa: BLE001 - the parent reads it
        traceback.print_exc()
        status = 70
    sys.stdout.flush()
    sys.stderr.flush()
    log.with_suffix(STATUS).write_text(str(status), "utf-8")
    os._exit(status)
