"""Processes forked off a server that has loaded Flowbed: each starts in milliseconds instead of a second.

    killed = start("run", "--yes", folder=project, variables={}, point="delta.written:2").wait()
    assert killed.returncode == -signal.SIGKILL

The server has loaded the modules and used none of them, so a fork loses no thread.
"""

from __future__ import annotations

import asyncio
import gc
import json
import multiprocessing
import os
import re
import shutil
import signal
import sys
import tempfile
import traceback
import warnings
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

# Lance warns of every fork because its threads would be missing; it has none before it is first used.
warnings.filterwarnings("ignore", "lance is not fork-safe")

# Loaded once, by the server.
import alembic.command  # noqa: E402, F401
from tests.support.processes.failpoints import kill_at  # noqa: E402
from tests.support.processes.preloaded import use_preloaded  # noqa: E402

import flowbed.cli.printing.views  # noqa: E402
import flowbed.index.compaction  # noqa: E402
import flowbed.lanes.batch.poll  # noqa: E402
import flowbed.lanes.batch.wait  # noqa: E402
import flowbed.lanes.embed  # noqa: E402
import flowbed.ledger.sql.ledger  # noqa: E402
import flowbed.ledger.sql.sqlite  # noqa: E402
import flowbed.pipeline.comparing.stretches  # noqa: E402
import flowbed.pipeline.plan  # noqa: E402
import flowbed.pipeline.release  # noqa: E402
import flowbed.server.running  # noqa: E402
import flowbed.testing.embedder  # noqa: E402
import flowbed.wiring.search  # noqa: E402
import flowbed.wiring.sources  # noqa: E402
from flowbed.cli.app import run  # noqa: E402
from flowbed.wiring import process  # noqa: E402

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from multiprocessing.process import BaseProcess

use_preloaded()
# A fork leaves what is loaded out of its garbage collections, which would copy all of it.
gc.collect()
gc.freeze()

PATIENCE = 120.0  # seconds: a process that takes longer hangs
FORKS = multiprocessing.get_context("forkserver")
FORKS.set_forkserver_preload(["tests.support.processes.running"])
OUTPUTS = (".out", ".err")  # files with standard output and the log
STATUS = ".status"  # file with the exit status
# What multiprocessing reports where two threads waited for the same process: only one of them gets its status.
LOST = 255


@dataclass(frozen=True, kw_only=True)
class Ran:
    """The result of one process; `stderr` is its log, written with `-v`."""

    returncode: int
    stdout: str
    stderr: str

    @property
    def report(self) -> dict[str, Any]:
        """The JSON that a finished command prints last with `--json`."""
        report: dict[str, Any] = json.loads(self.stdout.splitlines()[-1])
        return report

    @property
    def in_flight(self) -> int:
        """Count the texts that this process had sent and whose vectors it had not kept yet, by its own log."""

        def texts(point: str) -> int:
            return sum(map(int, re.findall(rf"{re.escape(point)} {{'\w+': (\d+)}}", self.stderr)))

        return texts("request.sent") - texts("vectors.kept")


@dataclass(frozen=True)
class Forked:
    """A forked process, the leader of its own process group, with its output in files."""

    process: BaseProcess
    log: Path
    keep_log: bool

    def wait(self, patience: float = PATIENCE) -> Ran:
        """Wait for the process to end.

        Raises:
            TimeoutError: it took longer than `patience` seconds, and was killed.
        """
        self.process.join(patience)
        hangs = self.process.exitcode is None
        if hangs:
            self.kill()
            self.process.join()
        returncode = self.process.exitcode
        self.process.close()
        if returncode == LOST:
            status = self.log.with_suffix(STATUS).read_text("utf-8")
            returncode = int(status) if status else -signal.SIGKILL
        stdout, stderr = (self.log.with_suffix(suffix).read_text("utf-8", "replace") for suffix in OUTPUTS)
        if not self.keep_log:
            shutil.rmtree(self.log.parent)
        if hangs:
            raise TimeoutError(f"a process took more than {patience:.0f} s; its log: {stderr[-2000:]}")
        assert returncode is not None
        return Ran(returncode=returncode, stdout=stdout, stderr=stderr)

    async def ended(self, patience: float = PATIENCE) -> Ran:
        """Wait for the process to end, as `wait` does, while other tasks go on."""
        return await asyncio.to_thread(self.wait, patience)

    def kill_after(self, seconds: float) -> None:
        """Kill the process unless it ends within so many seconds."""
        self.process.join(seconds)
        if self.process.exitcode is None:
            self.kill()

    def error_log(self) -> str:
        """Read what it has written to its log until now."""
        return self.log.with_suffix(OUTPUTS[1]).read_text("utf-8", "replace")

    def send(self, signal_: signal.Signals) -> None:
        """Send it a signal, unless it has ended."""
        if self.process.exitcode is None and self.process.pid is not None:
            os.kill(self.process.pid, signal_)

    def kill(self) -> None:
        """End it and everything it has started, as `kill -9` does."""
        pid = self.process.pid
        assert pid is not None
        for kill in (os.kill, os.killpg):  # the group exists only once the process runs
            with suppress(ProcessLookupError):
                kill(pid, signal.SIGKILL)


def start(
    *arguments: str,
    folder: Path,
    variables: Mapping[str, str],
    point: str = "",
    ahead: int = 0,
    batch: int = flowbed.pipeline.comparing.stretches.BATCH_CHUNKS,
    log: Path | None = None,
) -> Forked:
    """Start a `flowbed` command in `folder`.

    It has the environment `variables`, and none of this process's that configure Flowbed or AWS. `point` (POINT:N)
    kills it; its clock is `ahead` µs ahead, and its batch files have so many chunks as `batch`.
    """
    return fork(_command, folder, arguments, point, ahead, batch, variables=variables, log=log)


def fork(
    work: Callable[..., int], *arguments: object, variables: Mapping[str, str], log: Path | None = None
) -> Forked:
    """Call `work` in a forked process, which exits with what it returns.

    `log` names the files of its output, which stay; without it they are deleted with the wait.
    """
    files = log or Path(tempfile.mkdtemp(prefix="flowbed-process-")) / "process"
    for suffix in (*OUTPUTS, STATUS):
        files.with_suffix(suffix).touch()  # it may be killed before it begins
    forked = FORKS.Process(target=_carry_out, args=(files, dict(variables), work, arguments), daemon=True)
    forked.start()
    return Forked(forked, files, log is not None)


async def call(
    work: Callable[..., int],
    *arguments: object,
    variables: Mapping[str, str],
    log: Path,
    patience: float = PATIENCE,
) -> dict[str, Any]:
    """Call `work` in a forked process, and return the JSON that it prints last.

    Raises:
        RuntimeError: it failed.
    """
    ran = await fork(work, *arguments, variables=variables, log=log).ended(patience)
    if ran.returncode:
        raise RuntimeError(f"{work.__name__} failed: {ran.stderr}")
    return ran.report


def respond(answer: Mapping[str, Any]) -> int:
    """Print the answer of a `call`."""
    print(json.dumps(answer), flush=True)  # noqa: T201
    return 0


def _command(folder: Path, arguments: Sequence[str], point: str, ahead: int, batch: int) -> int:
    os.chdir(folder)
    if point:
        name, _, nth = point.partition(":")
        kill_at(name, int(nth or 1))
    clock = process.now
    process.now = lambda: clock() + ahead
    flowbed.pipeline.comparing.stretches.BATCH_CHUNKS = batch
    # Simulated jobs end at once.
    flowbed.lanes.batch.wait.POLL_FIRST, flowbed.lanes.batch.wait.POLL_MAX = 0.05, 0.5
    return run(arguments)


def _carry_out(
    log: Path, variables: Mapping[str, str], work: Callable[..., int], arguments: Sequence[Any]
) -> None:
    os.setsid()
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell without job control has it ignored
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
