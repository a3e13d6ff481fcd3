"""The command that embeds what waits, or what an event tells of."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from flowbed.cli.options import Common, Deadline
from flowbed.cli.printing.output import say, say_json
from flowbed.cli.project import DONE, FAILURES
from flowbed.errors import Misconfigured
from flowbed.records.plain import plain
from flowbed.records.values import count

if TYPE_CHECKING:
    from flowbed.records.events import Handled


def embed(
    common: Common,
    event: Annotated[
        str | None,
        typer.Option(
            "--event",
            metavar="FILE",
            help="A notification about new batch files, as it came; - is standard input.",
        ),
    ] = None,
    budget: Annotated[
        float | None, typer.Option(metavar="USD", min=0, help="Stop before a request that would exceed it.")
    ] = None,
    deadline: Deadline = None,
) -> int:
    """Embed what waits, without fetching; also batch files of other programs that no event told of."""
    from flowbed.cli.printing.formatting import read_span

    seconds = read_span(deadline)
    body = None if event is None else _read(event)
    done = common.with_bed(lambda bed: bed.embed(body, budget=budget, deadline=seconds))
    if common.as_json:
        say_json(_json(done))
    else:
        _show(done)
    failed = done.failures or done.later or (done.report is not None and done.report.failures)
    return FAILURES if failed else DONE


def _read(name: str) -> bytes:
    """Read an event from a file, or from standard input.

    Raises:
        Misconfigured: it cannot be read.
    """
    try:
        return sys.stdin.buffer.read() if name == "-" else Path(name).read_bytes()
    except OSError as error:
        raise Misconfigured(f"the event cannot be read from {name}: {error.strerror}") from error


def _json(done: Handled) -> dict[str, Any]:
    nothing = {"embedded": 0, "chunks": 0, "failures": []}
    report: dict[str, Any] = nothing if done.report is None else plain(done.report)
    told: dict[str, Any] = plain(done)
    del told["report"]
    failures = [*told.pop("failures"), *report["failures"]]
    messages = told.pop("messages")
    items = [{"itemIdentifier": each} for each in messages]
    return {**report, **told, "failures": failures, "batchItemFailures": items}


def _show(done: Handled) -> None:
    from flowbed.cli.printing.formatting import problems
    from flowbed.cli.printing.reports import show_report

    if done.batches or done.already:
        say(f"{count(done.batches, 'batch file')} to embed, {done.already:,} known already")
    for reason, number in done.ignored.items():
        say(f"  ignored: {number:,} {reason}")
    for key in done.later:
        say(f"  {key}: the fetch that writes it has not recorded it yet; send the event again in a minute")
    problems("failed", done.failures)
    if done.report is not None:
        show_report(done.report)
