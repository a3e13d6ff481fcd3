"""The commands that write flowbed.toml."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from flowbed.cli.options import Common
from flowbed.cli.printing.output import say
from flowbed.cli.project import enclosing, folder_of
from flowbed.errors import Misconfigured
from flowbed.settings import FILE
from flowbed.sources import VENDORS

if TYPE_CHECKING:
    from collections.abc import Sequence

    from flowbed.settings import SourceSettings
    from flowbed.wiring.sources import Added


def init(common: Common, folder: Annotated[Path, typer.Argument(metavar="[DIR]")] = Path()) -> None:
    """Create a project: write the flowbed.toml of a folder."""
    from flowbed import settings
    from flowbed.storage.atomic import write_whole

    folder = folder if common.config is None else folder_of(common.config)
    if folder.exists() and not folder.is_dir():
        raise Misconfigured(f"{folder} is a file: a project is a folder; name one, or a new one")
    path = folder / settings.FILE
    exists = path.exists()
    if exists:
        settings.read_settings(path.parent)
    else:
        write_whole(path, settings.BEGINNING.encode())

    def show(_: object) -> None:
        if exists:
            say(f"{path} exists already; nothing was changed")
        else:
            say(f"{path}: add sources with `flowbed add NAME KIND LOCATION`, then `flowbed run`")

    common.show({"config": str(path)}, show)


def add(
    common: Common,
    name: Annotated[str, typer.Argument(metavar="NAME", help="The name of the source.")],
    kind: Annotated[str, typer.Argument(metavar="KIND", help=f"One of {', '.join(VENDORS)}.")],
    location: Annotated[
        str, typer.Argument(metavar="LOCATION", help="A path, relative to the project's folder.")
    ],
    collection: Annotated[
        str | None, typer.Option(help="The collection of its chunks; default: NAME.")
    ] = None,
    option: Annotated[
        list[str] | None, typer.Option(metavar="K=V", help="An option of this kind of source; repeatable.")
    ] = None,
) -> None:
    """Add a source to flowbed.toml, or change the source of that name; options that are not named stay."""
    from flowbed.wiring import sources

    options: dict[str, str] = {}
    for each in option or []:
        key, equals, value = each.partition("=")
        if not equals:
            raise Misconfigured(f"--option takes key=value, not {each!r}")
        options[key] = value
    here = Path.cwd()
    folder = folder_of(common.config) if common.config is not None else enclosing(here) or here
    if folder != here and common.config is None and "://" not in location:
        # As typed, the path is relative to the current folder; in the file it is relative to the project's.
        location = os.path.relpath(here / Path(location).expanduser(), folder)
    added = sources.add(folder, name, kind=kind, location=location, collection=collection, options=options)
    seen = asyncio.run(sources.look(name, added.source, folder)) if "://" in location else ()
    common.show(
        {
            "added": name,
            "kind": kind,
            "location": location,
            "changed": added.before is not None,
            "project": str(folder),
            "seen": list(seen),
        },
        lambda _: _show_added(name, folder, added, seen),
    )


def _show_added(name: str, folder: Path, added: Added, seen: Sequence[str]) -> None:
    _show_change(name, folder, added)
    for line in seen:
        say(f"  {line}")


def _show_change(name: str, folder: Path, added: Added) -> None:
    source, before = added.source, added.before
    if added.created:
        say(f"created a project: {folder / FILE}")
    if before is None:
        say(f"added {name} ({source.kind}: {source.location}); `flowbed plan` shows what a run would do")
        return
    say(f"changed {name}, which was there: {_described(before)} is now {_described(source)}")
    if dropped := sorted(set(before.options) - set(source.options)):
        say(f"dropped the options of {before.kind}: {', '.join(dropped)}")


def _described(source: SourceSettings) -> str:
    options = "".join(f", {key}={value}" for key, value in sorted(source.options.items()))
    return f"{source.kind}: {source.location}{options}"
