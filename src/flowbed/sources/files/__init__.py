"""Files of a folder: text, documents and code, one document per file."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

from flowbed.sources.apis.raw_answers import RAW
from flowbed.sources.extraction.process import Limits, Parsers
from flowbed.sources.files.kept_extracts import KeptExtracts
from flowbed.sources.files.listing import Files
from flowbed.sources.locations import located
from flowbed.sources.options import SourceOptions

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

KNOWN = ("include", "exclude", "ignore", "max_bytes", "title", "url")
TITLES = ("none", "name")

# Larger files are dumps and logs; a document is held in memory whole.
LARGEST_BYTES = 20_000_000


def open_files(
    location: str, *, folder: Path, options: Mapping[str, object], clock: Callable[[], int]
) -> Files:
    """Open a file, or a folder and everything in it.

    Options: `include` and `exclude` are patterns as in .gitignore; `ignore` names a file of such patterns at the top of
    the folder (`.flowbedignore`); `max_bytes` is the largest file that is read, for documents the most text; `title` is
    `none`, or `name` to embed each file's name in front of its text; `url` is the address of the folder, to which the
    path of each file is added.

    Raises:
        Misconfigured: an option is unknown or invalid.
    """
    values = SourceOptions("files", options, KNOWN)
    path = located(location, folder)
    max_bytes = values.positive_integer("max_bytes", LARGEST_BYTES)
    name = hashlib.sha256(str(path.absolute()).encode(errors="surrogateescape")).hexdigest()[:16]
    return Files(
        location=location,
        path=path,
        include=values.strings("include"),
        exclude=values.strings("exclude"),
        ignore=values.string("ignore", ".flowbedignore"),
        max_bytes=max_bytes,
        title=values.choice("title", TITLES),
        url=values.string("url", ""),
        clock=clock,
        parsers=Parsers(Limits(characters=max_bytes)),
        kept=KeptExtracts(folder / RAW / f"files-{name}.db"),
    )
