"""The serving process: opens the project before the first request and closes it after the last."""

from __future__ import annotations

import asyncio
import gc
import ipaddress
import logging
import resource
import signal
import socket
import sys
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from functools import partial
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import uvicorn
from uvicorn.supervisors import Multiprocess

from flowbed import telemetry
from flowbed.bed import aopen
from flowbed.errors import Error, Misconfigured
from flowbed.server import logs
from flowbed.server.app import create_app, working
from flowbed.server.http.connection import Connection
from flowbed.server.http.places import Addresses
from flowbed.services.service import open_service
from flowbed.settings import share_counts, traces_wanted
from flowbed.wiring.process import set_up

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Mapping
    from pathlib import Path

    from fastapi import FastAPI

    from flowbed.bed import Flowbed
    from flowbed.server.tracing import Tracing
    from flowbed.services.service import Service

# Seconds that a connection may be idle: longer than proxies and clients allow (60), so that they close it first and no
# request meets a connection that is being closed.
KEEP_ALIVE = 75
# Seconds that requests have to finish on shutdown: as long as a client waits for a response.
GRACE = 60
# Connections that wait to be accepted: enough that a burst of thousands loses none.
BACKLOG = 4096
# Open files of a process, where the system allows it; each connection is one, and many shells start with 1,024.
FILES = 65_536
# Connections from one address, if that is not more than half of the open files: each may hold 64 KB before anyone is
# authenticated, and a proxy needs no more for `concurrency` requests.
CONNECTIONS = 8_192
# Seconds in which a worker has to answer its supervisor, which kills it otherwise: on a busy machine, loading Flowbed
# may take longer than uvicorn's 5.
WORKER_SECONDS = 30
STOPPING = (signal.SIGINT, signal.SIGTERM)


@dataclass(frozen=True, kw_only=True)
class ServeConfig:
    """What to serve, and how; `loopback` says that only this machine can reach it.

    `without_keys` allows a project that has had API keys, and has lost them, to be served without. With `watch`,
    sources are followed and scheduled too.
    """

    folder: Path
    loopback: bool
    log_requests: bool = True
    verbose: bool = False
    without_keys: bool = False
    watch: bool = False


def listen(host: str, port: int) -> socket.socket:
    """Bind an address; port 0 picks a free one.

    Raises:
        Misconfigured: the address is not this machine's, or is in use.
    """
    try:
        family, _, _, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        listening = socket.socket(family, socket.SOCK_STREAM)
        try:
            listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            # asyncio's event loop does not set it here, and each response would wait 40 ms for an acknowledgement.
            listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            listening.bind(address)
        except OSError:
            listening.close()
            raise
    except OSError as error:
        raise Misconfigured(
            f"cannot listen on {host}:{port}: {error.strerror}; choose another address with --host or --port"
        ) from error
    listening.set_inheritable(True)
    return listening


def is_loopback(listening: socket.socket) -> bool:
    """Tell whether only this machine can reach an address."""
    return ipaddress.ip_address(listening.getsockname()[0].partition("%")[0]).is_loopback


def serve(
    project: ServeConfig, listening: socket.socket, *, workers: int, started: Callable[[list[str]], None]
) -> None:
    """Serve until the process is told to stop, then finish the accepted requests.

    `started` is called with the models once everything is open and connections are accepted.

    Raises:
        Misconfigured: the project or a model cannot be opened (or not any more, when a worker restarts), or others
            could reach the server without a key.
        KeyboardInterrupt: stopped by Ctrl-C, not by SIGTERM.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = FILES if hard == resource.RLIM_INFINITY else min(FILES, hard)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, most), hard))
    config = uvicorn.Config(
        LazyApp(project),
        http=partial(Connection, addresses=Addresses(min(CONNECTIONS, max(soft, most) // 2))),  # type: ignore[arg-type] # makes one
        lifespan="on",
        ws="none",
        log_config=None,
        access_log=False,
        proxy_headers=False,
        server_header=False,
        backlog=BACKLOG,
        timeout_keep_alive=KEEP_ALIVE,
        timeout_graceful_shutdown=GRACE,
        workers=workers,
        timeout_worker_healthcheck=WORKER_SECONDS,
    )
    with asyncio.Runner(loop_factory=config.get_loop_factory()) as runner:
        if workers == 1:
            runner.run(_serve_here(project, config, listening, started))
            return
        # Find configuration errors here, once, and not in each worker.
        names = runner.run(_try(project))
    listening.listen(BACKLOG)  # connections wait until the workers are there
    with TemporaryDirectory(prefix="flowbed-") as counts:
        share_counts(counts)
        running = Workers(config, [listening])
        started(names)
        running.run()
    if running.stopped_by == signal.SIGINT:
        raise KeyboardInterrupt
    if running.stopped_by is None:
        raise Misconfigured("a worker could not restart, so the server stopped; the log says why")


class Workers(Multiprocess):
    """uvicorn's supervisor of workers; remembers what stopped it: None if a worker could not start."""

    stopped_by: signal.Signals | None = None

    def keep_subprocess_alive(self) -> None:
        """Replace workers that have died, also one that was killed before it could answer."""
        for worker in self.processes:
            # The worker has its own. While ours is open too, its death does not end the wait for its answer.
            worker.child_conn.close()
        super().keep_subprocess_alive()

    def handle_int(self) -> None:
        """Stop on Ctrl-C."""
        self.stopped_by = signal.SIGINT
        super().handle_int()

    def handle_term(self) -> None:
        """Stop on SIGTERM."""
        self.stopped_by = signal.SIGTERM
        super().handle_term()


async def _try(project: ServeConfig) -> list[str]:
    async with opened(project) as (_, service):
        return _names(service)


def _names(service: Service) -> list[str]:
    return [served.id for served in service.models.listed()]


async def _serve_here(
    project: ServeConfig,
    config: uvicorn.Config,
    listening: socket.socket,
    started: Callable[[list[str]], None],
) -> None:
    signals: list[int] = []
    server = uvicorn.Server(config)

    def stop(number: int, _: object) -> None:
        signals.append(number)
        server.should_exit = True

    kept = {}
    try:
        async with opened(project) as (app, service):
            config.app, config.lifespan = app, "off"
            # uvicorn catches signals itself and raises them again when it has stopped: handle them here, so that the
            # project is closed before the process ends.
            kept = {number: signal.signal(number, stop) for number in STOPPING}
            listening.listen(BACKLOG)
            started(_names(service))
            await server.serve(sockets=[listening])
    finally:
        for number, handler in kept.items():
            signal.signal(number, handler)
    if signal.SIGINT in signals:
        raise KeyboardInterrupt


@asynccontextmanager
async def opened(project: ServeConfig) -> AsyncIterator[tuple[FastAPI, Service]]:
    """Open a project, its services, and the application over them.

    Raises:
        Misconfigured: the project cannot be served, or others could reach it without a key.
    """
    logs.configure(sys.stderr, verbose=project.verbose)
    set_up()  # workers are new processes, not forks of the command
    async with AsyncExitStack() as stack:
        tracing = _tracing()
        if tracing is not None:
            stack.callback(tracing.close)
        async with (
            await aopen(project.folder) as bed,
            open_service(bed) as service,
            AsyncExitStack() as beside,  # ends before the project is closed
        ):
            await service.keys.require_deliberate(without_keys=project.without_keys)
            if not project.loopback and not await service.keys.required():
                raise Misconfigured(
                    "without API keys, only this machine may connect: create one with `flowbed keys create NAME`, or"
                    " omit --host"
                )
            log = logs.Log(sys.stderr.buffer, now=bed.clock, every=project.log_requests)
            stack.callback(log.flush)
            app = create_app(
                service,
                loopback=project.loopback,
                watchers=[log],
                tracing=tracing,
            )
            app.state.watching = project.watch
            stack.callback(telemetry.listen(app.state.metrics.count))
            # What is loaded now stays: exclude it from garbage collections.
            gc.collect()
            gc.freeze()
            if project.watch:
                await beside.enter_async_context(_watching(bed))
            async with working(app, service):
                yield app, service


@asynccontextmanager
async def _watching(bed: Flowbed) -> AsyncIterator[None]:
    """Watch the sources of a project beside its requests; what happens is logged."""

    def say(event: Mapping[str, Any]) -> None:
        level = logging.WARNING if event["event"] == "failed" else logging.INFO
        telemetry.log.log(level, "watch: %s", event)

    task = asyncio.create_task(bed.watch(say=say))
    task.add_done_callback(_log_end)
    await asyncio.sleep(0)
    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


def _log_end(task: asyncio.Task[None]) -> None:
    if not task.cancelled() and (error := task.exception()) is not None:
        telemetry.log.error(
            "the watch has ended, and sources are not followed any more: %s", error, exc_info=error
        )


def _tracing() -> Tracing | None:
    if not traces_wanted():
        return None
    try:
        from flowbed.server.tracing import Tracing
    except ImportError as error:
        raise Misconfigured(
            "the OTEL_ variables ask for traces: run pip install 'flowbed[otel]', or unset them"
        ) from error
    return Tracing()


class LazyApp:
    """The application of a worker, which opens its project on startup and closes it on shutdown."""

    def __init__(self, project: ServeConfig) -> None:
        """Remember what to open."""
        self._project = project
        self._app: FastAPI | None = None

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Answer a request, or run the worker's lifespan."""
        if self._app is not None:
            await self._app(scope, receive, send)
            return
        await receive()
        try:
            async with opened(self._project) as (self._app, _):
                await send({"type": "lifespan.startup.complete"})
                await receive()
        except Error as error:
            await send({"type": "lifespan.startup.failed", "message": str(error)})
        else:
            await send({"type": "lifespan.shutdown.complete"})
