"""The command that serves a project over HTTP."""

from __future__ import annotations

import threading
from typing import Annotated

import typer

from flowbed.cli.options import Config, Json, Verbose
from flowbed.cli.printing.output import note, say_json
from flowbed.cli.project import project_folder
from flowbed.errors import Misconfigured


def serve(
    host: Annotated[
        str, typer.Option(help="The address to listen on; any but the loopback needs an API key.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="The port; 0 takes a free one.")] = 8080,
    workers: Annotated[int, typer.Option(min=1, max=256, help="Number of server processes.")] = 1,
    log_requests: Annotated[
        bool,
        typer.Option(
            "--log-requests/--no-log-requests", help="Log a line for each request to standard error."
        ),
    ] = True,
    without_keys: Annotated[
        bool,
        typer.Option(
            "--without-keys", help="Serve without API keys a project that had some and has lost them."
        ),
    ] = False,
    watch: Annotated[
        bool, typer.Option("--watch", help="Also do what `flowbed watch` does, in this process.")
    ] = False,
    open_page: Annotated[bool, typer.Option("--open", help="Open the page in a browser.")] = False,
    as_json: Json = False,
    config: Config = None,
    verbose: Verbose = False,
) -> None:
    """Serve an OpenAI-compatible embeddings API and search, until stopped."""
    from flowbed.server import running  # loaded by the command that needs it

    if watch and workers > 1:
        raise Misconfigured(
            "--watch takes one process: leave out --workers, or run `flowbed watch` beside it"
        )
    folder = project_folder(config)
    listening = running.listen(host, port)
    place = running.ServeConfig(
        folder=folder,
        loopback=running.is_loopback(listening),
        log_requests=log_requests,
        verbose=verbose,
        without_keys=without_keys,
        watch=watch,
    )
    shown, taken = listening.getsockname()[:2]
    url = f"http://[{shown}]:{taken}" if ":" in shown else f"http://{shown}:{taken}"

    def started(names: list[str]) -> None:
        if as_json:
            say_json({"url": url, "models": names})
        else:
            note(f"serving {', '.join(names)} at {url}/v1, and a page at {url}; Ctrl-C stops it")
        if open_page:
            # In a thread: a browser of the terminal, the only one on some machines, runs until it is left.
            threading.Thread(target=_open, args=(url,), daemon=True).start()

    with listening:
        running.serve(place, listening, workers=workers, started=started)


def _open(url: str) -> None:
    import webbrowser  # loaded by the option that needs it

    if not webbrowser.open(url):
        note(f"no browser was found on this machine: open {url} in one")
