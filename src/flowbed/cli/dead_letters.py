"""The commands about dead letters."""

from __future__ import annotations

from typing import Annotated

import typer

from flowbed.cli.options import Common
from flowbed.cli.output import say
from flowbed.errors import NotFound


def list_(common: Common) -> None:
    """List the failures that need attention, with their reasons."""
    from flowbed.cli import views

    found = common.with_bed(lambda bed: bed.dead_letters())
    common.show({"dead_letters": found}, lambda _: views.show_letters(found))


def show(
    common: Common, subject: Annotated[str, typer.Argument(metavar="SUBJECT", help="As `list` names it.")]
) -> None:
    """Show everything that is known about one failure."""
    from flowbed.cli import views

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
) -> None:
    """Queue what failed for the next run."""
    waiting = common.with_bed(lambda bed: bed.retry_dead_letters(*subjects or ()))
    common.show({"waiting": waiting}, lambda _: say(f"{waiting} chunks wait for the next `flowbed run`"))
