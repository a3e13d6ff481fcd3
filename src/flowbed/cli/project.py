"""The project that a command works on: where it is, and how it is opened."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from flowbed.errors import Misconfigured

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from flowbed.bed import Flowbed

Answer = TypeVar("Answer")

# Exit statuses.
DONE, FAILURES, USAGE, INTERRUPTED = 0, 1, 2, 130


def with_bed(
    config: Path | None, work: Callable[[Flowbed], Awaitable[Answer]], *, repair: bool = False
) -> Answer:
    """Open the project, run `work` on it and close it; `repair` also opens a store of another ledger."""
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
    """Return the folder of the project that `--config` names, or that the current folder belongs to.

    Raises:
        Misconfigured: it is not a project.
    """
    from flowbed import settings

    if config is not None:
        folder = folder_of(config)
        if not (folder / settings.FILE).exists():
            raise Misconfigured(
                f"{folder} is not a Flowbed project: it has no {settings.FILE}; `flowbed init` creates one"
            )
        return folder
    if (found := enclosing(Path.cwd())) is None:
        raise Misconfigured(
            f"{Path.cwd()} is not a Flowbed project: neither it nor a folder above it has a {settings.FILE};"
            " `flowbed init` creates one"
        )
    return found


def enclosing(folder: Path) -> Path | None:
    """Return the project that a folder belongs to: the nearest folder from there upwards that has a flowbed.toml."""
    from flowbed import settings

    return next((each for each in (folder, *folder.parents) if (each / settings.FILE).exists()), None)


def folder_of(config: Path | None) -> Path:
    """Return the folder that `--config` names, by a settings file or directly; the current one by default."""
    if config is None:
        return Path.cwd()
    if config.is_dir():
        return config.absolute()
    if config.name != "flowbed.toml":
        raise Misconfigured(f"--config takes the path of a flowbed.toml or of its folder, not {config}")
    return config.absolute().parent
