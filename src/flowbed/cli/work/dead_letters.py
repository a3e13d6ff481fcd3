"""The commands about dead letters."""

from __future__ import annotations

from typing import Annotated

import typer

from flowbed.cli.options import Common
from flowbed.cli.printing.output import say
from flowbed.cli.project import DONE, FAILURES
from flowbed.errors import NotFound
from flowbed.records.values import count, listing

Source = Annotated[str, typer.Option(metavar="SOURCE", help="Only of this source.")]
Day = Annotated[
    str, typer.Option(metavar="DAY", help="Only of batch files of this day, in UTC, as 2026-11-30.")
]
Batch = Annotated[str, typer.Option(metavar="BATCH", help="Only of this batch file, by its key or id.")]


def list_(common: Common, source: Source = "", day: Day = "", batch: Batch = "") -> None:
    """List the failures that need attention, with their reasons and batch files."""
    from flowbed.cli.printing import views

    found = common.with_bed(lambda bed: bed.dead_letters(source=source, day=day, batch=batch))
    common.show(views.letters_json(found), lambda _: views.show_letters(found))


def show(
    common: Common, subject: Annotated[str, typer.Argument(metavar="SUBJECT", help="As `list` names it.")]
) -> None:
    """Show everything that is known about one failure."""
    from flowbed.cli.printing import views

    letters = common.with_bed(lambda bed: bed.dead_letters())
    found = [letter for letter in letters if letter.subject == subject]
    if not found:
        raise NotFound(f"no dead letter is about {subject!r}; `flowbed dead-letters list` names them")
    common.show({"dead_letters": found}, lambda _: views.show_letters(found))


def retry(
    common: Common,
    subjects: Annotated[
        list[str] | None, typer.Argument(metavar="[SUBJECT]...", help="Default: all.")
    ] = None,
    source: Source = "",
    day: Day = "",
    batch: Batch = "",
) -> int:
    """Queue what failed for the next run, and read failed batch files of other programs again."""
    from flowbed.cli.printing.formatting import problems

    done = common.with_bed(lambda bed: bed.replay(*subjects or (), source=source, day=day, batch=batch))
    waiting = f"{count(done.waiting, 'chunk')} {'waits' if done.waiting == 1 else 'wait'}"
    again = (
        f", which lists {listing(done.sources, none='nothing')} from the beginning" if done.sources else ""
    )
    tasks = f"; workers take {count(done.tasks, 'task')} again" if done.tasks else ""
    common.show(done, lambda _: say(f"{waiting} for the next `flowbed run`{again}{tasks}"))
    if not common.as_json:
        problems("failed again", done.failures)
    return FAILURES if done.failures else DONE
