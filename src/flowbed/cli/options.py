"""The options that commands share."""

from __future__ import annotations

import functools
import inspect
import logging
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar, get_type_hints

import typer

from flowbed import telemetry
from flowbed.cli.printing.output import say_json
from flowbed.cli.project import with_bed
from flowbed.escaping import visible, visible_lines

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from flowbed.bed import Flowbed

Answer = TypeVar("Answer")

Names = Annotated[list[str] | None, typer.Argument(metavar="[NAME]...", help="Sources; default: all.")]
Collection = Annotated[str | None, typer.Argument(metavar="[COLLECTION]", help="Default: all.")]
Deadline = Annotated[
    str | None,
    typer.Option(
        metavar="TIME",
        help="Time from now until everything is embedded, such as 90m, 6h or 2d; the Batch API costs less.",
    ),
]
Limit = Annotated[int | None, typer.Option(min=1, help="Embed at most this many chunks.")]

Json = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]
Config = Annotated[
    Path | None,
    typer.Option("--config", metavar="FILE", help="The project's flowbed.toml; default: the one here."),
]
Verbose = Annotated[bool, typer.Option("--verbose", "-v", help="Log to standard error.")]

COMMON = {"as_json": Json, "config": Config, "verbose": Verbose}


@dataclass(frozen=True)
class Common:
    """The options that every command takes."""

    as_json: bool = False
    config: Path | None = None
    verbose: bool = False

    def with_bed(self, work: Callable[[Flowbed], Awaitable[Answer]], *, repair: bool = False) -> Answer:
        """Open the project, run `work` on it and close it; `repair` also opens a store of another ledger."""
        return with_bed(self.config, work, repair=repair)

    def show(self, result: Answer, view: Callable[[Answer], None]) -> None:
        """Print a result: as JSON, or by its view."""
        say_json(result) if self.as_json else view(result)


def with_common(function: Callable[..., int | None]) -> Callable[..., int | None]:
    """Add the common options to a command, which receives them as its first argument.

    typer derives the options of a command from its signature, so the signature is extended.
    """
    hints = get_type_hints(function, include_extras=True)
    _, *own = inspect.signature(function).parameters.values()
    parameters = [each.replace(annotation=hints[each.name]) for each in own] + [
        inspect.Parameter(
            name, inspect.Parameter.KEYWORD_ONLY, default=getattr(Common, name), annotation=kind
        )
        for name, kind in COMMON.items()
    ]

    @functools.wraps(function)
    def command(**options: Any) -> int | None:
        common = Common(**{name: options.pop(name) for name in COMMON})
        log_to_stderr(verbose=common.verbose)
        return function(common, **options)

    command.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    command.__annotations__ = {each.name: each.annotation for each in parameters}
    return command


class Escaped(logging.Formatter):
    """Log lines in which nothing controls a terminal, or looks like another line."""

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 - the name that logging calls
        """Format a message."""
        return visible(super().formatMessage(record))

    def formatException(self, ei: Any) -> str:  # noqa: N802 - the name that logging calls
        """Format a traceback."""
        return visible_lines(super().formatException(ei))


def log_to_stderr(*, verbose: bool) -> None:
    """Log to standard error: everything if `verbose`, otherwise warnings."""
    # Of other packages only errors matter here: progress reports retries already.
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(Escaped("%(asctime)s %(name)s %(message)s" if verbose else "%(message)s"))
    logging.basicConfig(level=logging.ERROR, handlers=[handler])
    telemetry.log.setLevel(logging.DEBUG if verbose else logging.WARNING)
