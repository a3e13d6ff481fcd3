"""The project that a command is about: where it is, how it is opened, and the options that name it."""

from __future__ import annotations

import asyncio
import logging
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeVar

import typer

from flowbed import telemetry
from flowbed.errors import Misconfigured

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from flowbed.bed import Flowbed

Answer = TypeVar("Answer")

DONE, FAILURES, USAGE, INTERRUPTED = 0, 1, 2, 130

Json = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]
Config = Annotated[
    Path | None,
    typer.Option("--config", metavar="FILE", help="The project's flowbed.toml; by default the one here."),
]
Verbose = Annotated[bool, typer.Option("--verbose", "-v", help="Log what is done to standard error.")]
Names = Annotated[list[str] | None, typer.Argument(metavar="[NAME]...", help="Sources; by default all.")]
One = Annotated[str | None, typer.Argument(metavar="[COLLECTION]", help="By default all.")]


def with_bed(
    config: Path | None, work: Callable[[Flowbed], Awaitable[Answer]], *, repair: bool = False
) -> Answer:
    """Open the project that is meant, and carry out `work` with it; `repair` opens it whatever its store belongs to."""
    import stamina.instrumentation

    from flowbed import bed

    # Where structlog is installed, stamina would print its retries to standard output, amid the results.
    stamina.instrumentation.set_on_retry_hooks(())
    folder = project_folder(config)

    async def opened() -> Answer:
        async with await bed.aopen(folder, repair=repair) as project:
            return await work(project)

    return asyncio.run(opened())


def project_folder(config: Path | None) -> Path:
    """Name the folder of the project that is meant.

    Raises:
        Misconfigured: it is none.
    """
    from flowbed import settings

    folder = folder_of(config)
    if not (folder / settings.FILE).exists():
        raise Misconfigured(
            f"{folder} is no Flowbed project: it has no {settings.FILE}; `flowbed init` makes one"
        )
    return folder


def folder_of(config: Path | None) -> Path:
    """Name the folder of the project whose settings file, or whose folder, `--config` names."""
    if config is None:
        return Path.cwd()
    if config.is_dir():
        return config.absolute()
    if config.name != "flowbed.toml":
        raise Misconfigured(f"--config takes the path of a flowbed.toml or of its folder, not {config}")
    return config.absolute().parent


def log_to_stderr(*, verbose: bool) -> None:
    """Send what is logged to standard error: all of it where `verbose`, otherwise what needs someone to look."""
    # Of other packages only errors are of interest here: retries, for one, are told with the progress already.
    logging.basicConfig(
        level=logging.ERROR,
        format="%(asctime)s %(name)s %(message)s" if verbose else "%(message)s",
        stream=sys.stderr,
    )
    telemetry.log.setLevel(logging.DEBUG if verbose else logging.WARNING)
