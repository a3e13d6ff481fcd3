"""A local model in processes of its own: one that dies, hangs or grows too large is replaced, and no call is lost."""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import signal
import socket
import struct
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from dataclasses import dataclass
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any

import psutil

from flowbed import telemetry
from flowbed.embedding.local.priority import UNHURRIED
from flowbed.embedding.wrappers import Wrapper
from flowbed.errors import Error, Transient

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from multiprocessing.connection import Connection

    from flowbed.embedding import Embedder
    from flowbed.records import Embedded, Purpose

# Seconds for one call, of which the first also loads the model: many times what the longest takes on a slow machine.
TIMEOUT = 300.0

# Seconds for a process to be there: Python and numpy on a machine that is busy with other things.
STARTING = 120.0

# Bytes that a process may hold after a call; a model of the usual size holds a tenth of it.
MEMORY = 4 * 2**30

# Seconds for a process to end by itself when it is told to.
FAREWELL = 5.0


# What travels to a process: texts, their purpose, and whether nobody waits for them.
_Call = tuple[list[str], "Purpose", bool]


class Supervised(Wrapper):
    """An embedder that works in processes of its own, and counts in this one.

    A call whose process dies or hangs under it is tried once more in a new one. Used from one event loop.
    """

    def __init__(
        self,
        opener: Callable[[], Embedder],
        *,
        processes: int,
        timeout: float = TIMEOUT,
        memory: int = MEMORY,
    ) -> None:
        """Start so many processes, each of which opens its own embedder; `opener` travels to them by pickle.

        A process is replaced that takes longer than `timeout` seconds for a call, or that holds more than `memory`
        bytes after one.

        Raises:
            Misconfigured: the embedder cannot be opened.
        """
        embedder = opener()
        super().__init__(embedder)
        # Optional powers that need no model: reading token ids, and how long a text may be.
        for power in ("decode", "window"):
            if hasattr(embedder, power):
                setattr(self, power, getattr(embedder, power))
        self._opener = opener
        self._timeout = timeout
        self._memory = memory
        # As many threads as processes: who has a thread finds a process that is idle.
        self._threads = ThreadPoolExecutor(max_workers=processes, thread_name_prefix="flowbed-supervised")
        self._workers = [_Worker(opener, timeout) for _ in range(processes)]
        self._idle: SimpleQueue[int] = SimpleQueue()
        for place in range(processes):
            self._idle.put(place)

    def alive(self) -> int:
        """Count the processes that are there; one that is not is replaced by the next call that needs it."""
        return sum(worker.process.is_alive() for worker in self._workers)

    async def embed(self, texts: Sequence[str], *, purpose: Purpose) -> Embedded:
        """Embed every text or none, in the next process that is free.

        Raises:
            Transient: two processes died or hung over it.
            Rejected, Misconfigured: as the embedder does.
        """
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._threads, self._run, (list(texts), purpose, UNHURRIED.get()))

    async def aclose(self) -> None:
        """Let calls that are under way end, and then the processes."""
        await asyncio.to_thread(self._close)
        await super().aclose()

    def _run(self, call: _Call) -> Embedded:
        """Embed in one of the processes; runs in one of the threads."""
        place = self._idle.get_nowait()
        try:
            if not self._workers[place].process.is_alive():
                self._replace(place, "it died")
            answer = self._asked(place, call) or self._asked(place, call)
        finally:
            self._idle.put(place)
        if answer is None:
            raise Transient(
                f"two processes of {self.space.model} died or hung over {len(call[0])} texts; try again, with fewer"
            )
        if answer.memory > self._memory:
            self._replace(place, f"it held {answer.memory / 2**20:.0f} MiB")
        if isinstance(answer.outcome, Exception):
            raise answer.outcome
        return answer.outcome

    def _asked(self, place: int, call: _Call) -> _Answer | None:
        """Ask one process; None where it did not live to answer, and was replaced."""
        try:
            answer = self._workers[place].ask(call)
        except (EOFError, OSError):
            self._replace(place, "it died")
            return None
        if answer is None:
            self._replace(place, f"it did not answer within {self._timeout:g} s")
        return answer

    def _replace(self, place: int, reason: str) -> None:
        telemetry.log.warning("a process of %s is replaced: %s", self.space.model, reason)
        telemetry.reached(telemetry.WORKER_RESTARTED, model=self.space.model, reason=reason)
        self._workers[place].kill()
        self._workers[place] = _Worker(self._opener, self._timeout)

    def _close(self) -> None:
        self._threads.shutdown(cancel_futures=True)
        for worker in self._workers:
            worker.end()


@dataclass(frozen=True)
class _Answer:
    """What a process found, and the bytes that it holds."""

    outcome: Embedded | Exception
    memory: int


class _Worker:
    """One process, asked by one thread at a time."""

    def __init__(self, opener: Callable[[], Embedder], timeout: float) -> None:
        # Spawned: a fork would copy the locks of threads that are busy in this process.
        context = multiprocessing.get_context("spawn")
        self._connection, theirs = context.Pipe()
        self.process = context.Process(target=_work, args=(theirs, opener), daemon=True)
        self.process.start()
        # Theirs alone now, so that its end is seen here, and ours there.
        theirs.close()
        self._timeout = timeout
        _limit(self._connection, timeout)
        self._started = False

    def ask(self, call: _Call) -> _Answer | None:
        """Have texts embedded; None where that takes too long."""
        if not self._started:
            if not self._connection.poll(STARTING):
                return None
            self._connection.recv()
            self._started = True
        try:
            self._connection.send(call)
            if not self._connection.poll(self._timeout):
                return None
            answer: _Answer = self._connection.recv()
        except BlockingIOError:
            return None
        return answer

    def kill(self) -> None:
        """End the process, whatever it does."""
        self._connection.close()
        self.process.kill()
        self.process.join()

    def end(self) -> None:
        """Let the process end by itself, which it does when nobody is there to ask it."""
        self._connection.close()
        self.process.join(FAREWELL)
        if self.process.is_alive():
            self.kill()


def _limit(connection: Connection[Any, Any], seconds: float) -> None:
    """Let no more be waited for one piece of a call or an answer: a process that hangs takes no more than fits between.

    What waits for longer raises BlockingIOError.
    """
    interval = struct.pack("@ll", int(seconds), int(seconds % 1 * 1e6))
    # What multiprocessing calls a pipe with two ways is a pair of sockets.
    with socket.socket(fileno=os.dup(connection.fileno())) as end:
        for way in (socket.SO_SNDTIMEO, socket.SO_RCVTIMEO):
            end.setsockopt(socket.SOL_SOCKET, way, interval)


def _work(connection: Connection[Any, Any], opener: Callable[[], Embedder]) -> None:
    """Answer until nobody asks any more."""
    # Ctrl-C reaches every process of a terminal; it is for the one that asks to decide what becomes of its calls.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    itself = psutil.Process()
    embedder = None
    connection.send("started")
    with asyncio.Runner() as runner:
        while True:
            try:
                texts, purpose, aside = connection.recv()
            except EOFError:
                return
            try:
                embedder = embedder or opener()
                UNHURRIED.set(aside)
                answering = embedder.embed(texts, purpose=purpose)
                outcome: Embedded | Exception = runner.run(answering, context=copy_context())
            except Error as error:
                outcome = error
            except Exception as error:  # noqa: BLE001 - whatever it is may not be able to travel
                outcome = Transient(f"the model failed ({type(error).__name__}: {error}); try again")
            connection.send(_Answer(outcome, itself.memory_info().rss))
