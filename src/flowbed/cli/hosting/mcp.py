"""The command that serves tools to agents."""

from __future__ import annotations

from importlib.util import find_spec
from typing import TYPE_CHECKING, Annotated

import typer

from flowbed.cli.options import Config, Verbose, log_to_stderr
from flowbed.cli.printing.output import note
from flowbed.cli.project import with_bed
from flowbed.errors import Misconfigured

if TYPE_CHECKING:
    from flowbed.bed import Flowbed


def mcp(
    http: Annotated[
        bool, typer.Option("--http", help="Serve over streamable HTTP instead of standard input and output.")
    ] = False,
    host: Annotated[
        str, typer.Option(help="The address to listen on; any but the loopback needs an API key.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="The port; 0 takes a free one.")] = 8081,
    allow_changes: Annotated[
        bool, typer.Option("--allow-changes", help="Let agents also run: fetch and embed sources.")
    ] = False,
    config: Config = None,
    verbose: Verbose = False,
) -> None:
    """Serve search and reading as tools to agents, over the Model Context Protocol."""
    if find_spec("mcp") is None:
        raise Misconfigured("tools for agents need another package: pip install 'flowbed[mcp]'")
    log_to_stderr(verbose=verbose)
    if http:
        _serve_http(host, port, allow_changes, config)
        return

    async def served(bed: Flowbed) -> None:
        from flowbed.server.mcp.running import serve_streams

        await serve_streams(bed, may_change=allow_changes)

    with_bed(config, served)


def _serve_http(host: str, port: int, allow_changes: bool, config: Config) -> None:
    from flowbed.server import running

    listening = running.listen(host, port)
    shown, taken = listening.getsockname()[:2]
    url = f"http://[{shown}]:{taken}/mcp" if ":" in shown else f"http://{shown}:{taken}/mcp"

    async def served(bed: Flowbed) -> None:
        from flowbed.server.mcp.running import serve_http

        await serve_http(
            bed,
            listening,
            loopback=running.is_loopback(listening),
            may_change=allow_changes,
            started=lambda: note(f"serving tools at {url}; Ctrl-C stops it"),
        )

    with listening:
        with_bed(config, served)
