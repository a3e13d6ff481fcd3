"""Hosts on this machine: network namespaces with names of their own, whose links can be cut. Needs root.

Servers that listen on 127.0.0.1 are reached from there at the address of the bridge, through a forwarder.
"""

from __future__ import annotations

import asyncio
import os
import secrets
import shutil
import subprocess
import sys
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path
    from types import TracebackType

PIECE = 1 << 16


class NoHostsError(Exception):
    """This machine allows no network namespaces."""


@dataclass
class Host:
    """A host: its name, its namespace, and the link that leads to it."""

    name: str
    namespace: str
    link: str

    def cut(self) -> None:
        """Cut its link: packets of both directions are lost."""
        _ip("link", "set", self.link, "down")

    def mend(self) -> None:
        """Restore its link."""
        _ip("link", "set", self.link, "up")

    async def start(
        self, command: Sequence[str], *, folder: Path, variables: Mapping[str, str], log: Path
    ) -> asyncio.subprocess.Process:
        """Start a command on it; its output goes into a file."""
        inside = f"hostname {self.name} && exec {sys.executable} -m flowbed {' '.join(command)}"
        kept = {
            name: value for name, value in os.environ.items() if not name.startswith(("FLOWBED_", "AWS_"))
        }
        with log.open("ab") as file:
            return await asyncio.create_subprocess_exec(
                *("ip", "netns", "exec", self.namespace, "unshare", "--uts", "sh", "-c", inside),
                cwd=folder,
                env={**kept, **variables},
                stdout=file,
                stderr=file,
            )


@dataclass
class Hosts:
    """Some hosts on one bridge, during a `with` block."""

    number: int
    hosts: list[Host] = field(default_factory=list)
    address: str = ""
    _bridge: str = ""
    _servers: list[asyncio.Server] = field(default_factory=list)

    def __enter__(self) -> Self:
        """Make them.

        Raises:
            NoHostsError: this needs root, and the programs of iproute2 and util-linux.
        """
        if os.geteuid() != 0 or not shutil.which("ip") or not shutil.which("unshare"):
            raise NoHostsError(
                "hosts in network namespaces need root, ip (iproute2) and unshare (util-linux)"
            )
        mark, net = secrets.token_hex(2), f"10.{100 + secrets.randbelow(100)}.{secrets.randbelow(250)}"
        self._bridge, self.address = f"fb{mark}", f"{net}.1"
        try:
            _ip("link", "add", self._bridge, "type", "bridge")
            _ip("addr", "add", f"{self.address}/24", "dev", self._bridge)
            _ip("link", "set", self._bridge, "up")
            for number in range(self.number):
                self._add(mark, net, number)
        except BaseException:
            self.__exit__(None, None, None)
            raise
        return self

    def _add(self, mark: str, net: str, number: int) -> None:
        host = Host(f"host{number}", f"fb{mark}-{number}", f"fv{mark}-{number}")
        _ip("netns", "add", host.namespace)
        self.hosts.append(host)
        _ip("link", "add", host.link, "type", "veth", "peer", "name", "eth0", "netns", host.namespace)
        _ip("link", "set", host.link, "master", self._bridge)
        _ip("link", "set", host.link, "up")
        for words in (
            ("addr", "add", f"{net}.{10 + number}/24", "dev", "eth0"),
            ("link", "set", "eth0", "up"),
        ):
            _ip("-n", host.namespace, *words)
        _ip("-n", host.namespace, "link", "set", "lo", "up")

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Remove them; their processes have to have ended."""
        for server in self._servers:
            server.close()
        for host in self.hosts:
            with suppress(NoHostsError):
                _ip("netns", "del", host.namespace)
        with suppress(NoHostsError):
            _ip("link", "del", self._bridge)

    async def forward(self, port: int) -> int:
        """Forward a port of the bridge to a server on 127.0.0.1; return that port."""

        async def serve(client: asyncio.StreamReader, answer: asyncio.StreamWriter) -> None:
            try:
                server, ask = await asyncio.open_connection("127.0.0.1", port)
            except OSError:
                answer.transport.abort()
                return
            both = [asyncio.create_task(_copy(client, ask)), asyncio.create_task(_copy(server, answer))]
            # Whichever side ends, the other one learns at once.
            await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)
            for each in both:
                each.cancel()
            for writer in (ask, answer):
                writer.transport.abort()

        server = await asyncio.start_server(serve, self.address, 0, limit=PIECE)
        self._servers.append(server)
        return int(server.sockets[0].getsockname()[1])


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with suppress(OSError):
        while said := await reader.read(PIECE):
            writer.write(said)
            await writer.drain()


def _ip(*words: str) -> None:
    command = [shutil.which("ip") or "ip", *words]
    done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603 - our own words
    if done.returncode:
        raise NoHostsError(f"ip {' '.join(words)}: {done.stderr.strip()}")
