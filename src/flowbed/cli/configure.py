"""The commands that write flowbed.toml."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from flowbed.cli.options import Common
from flowbed.cli.output import say
from flowbed.cli.project import folder_of
from flowbed.errors import Misconfigured


def init(common: Common, folder: Annotated[Path, typer.Argument(metavar="[DIR]")] = Path()) -> None:
    """Create a project: write the flowbed.toml of a folder."""
    from flowbed import settings
    from flowbed.storage.atomic import write_whole

    path = (folder if common.config is None else folder_of(common.config)) / settings.FILE
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
    kind: Annotated[str, typer.Argument(metavar="KIND", help="files, jsonl or receipts.")],
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
    """Add a source to flowbed.toml, or replace the source of that name."""
    from flowbed.wiring import sources

    options: dict[str, str] = {}
    for each in option or []:
        key, equals, value = each.partition("=")
        if not equals:
            raise Misconfigured(f"--option takes key=value, not {each!r}")
        options[key] = value
    folder = folder_of(common.config)
    sources.add(folder, name, kind=kind, location=location, collection=collection, options=options)
    common.show(
        {"added": name, "kind": kind, "location": location},
        lambda _: say(f"added {name} ({kind}: {location}); `flowbed plan` shows what a run would do"),
    )
