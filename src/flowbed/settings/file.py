"""`flowbed.toml` as a file: begun, added to, and never half written."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from flowbed.errors import Misconfigured
from flowbed.settings.project import FILE, checked_name, read_settings

if TYPE_CHECKING:
    from pathlib import Path

# What `flowbed init` writes.
BEGINNING = """\
# A Flowbed project. Each setting can also be given as an environment variable: FLOWBED_MODEL, FLOWBED_STORE, ...
# model = "onnx:sentence-transformers/all-MiniLM-L6-v2"
# store = ".flowbed/store"
# ledger = ".flowbed/ledger.db"
# concurrency = 10          # requests in flight
# vector_cache_mb = 2048    # vectors on disk that are never paid for again
# keep_versions = 10        # older versions that can be searched and rolled back to
# keep_days = 7             # ... and all that are younger
"""


def add_source(
    folder: Path, name: str, *, kind: str, location: str, collection: str | None, options: dict[str, Any]
) -> None:
    """Write one more `[sources.NAME]` table into `flowbed.toml`, in the place of any of that name; all else is kept.

    Raises:
        Misconfigured: the name, or the file as it stands, cannot be used.
    """
    # Only writing keeps comments and order, and takes a while to load.
    import tomlkit
    from tomlkit.exceptions import TOMLKitError

    from flowbed.settings.checking import checked  # slow to load, too

    checked_name(name, "source")
    if collection is not None:
        checked_name(collection, "collection")
    read_settings(folder)  # a file that cannot be read is not written over
    path = folder / FILE
    said: dict[str, Any] = {"kind": kind, "location": location}
    if collection is not None:
        said["collection"] = collection
    if options:
        said["options"] = options
    checked({"sources": {name: said}}, path)  # nor is anything written that cannot be read
    try:
        file = tomlkit.parse(path.read_text("utf-8")) if path.exists() else tomlkit.document()
    except TOMLKitError as error:
        raise Misconfigured(f"{path} is not valid TOML: {error}") from error
    table = tomlkit.table()
    table.update(said)
    sources = file.setdefault("sources", tomlkit.table(is_super_table=True))
    sources[name] = table
    write_whole(path, tomlkit.dumps(file))


def write_whole(path: Path, text: str) -> None:
    """Write a file so that it is the old or the new one, never half of it.

    Raises:
        Misconfigured: the folder cannot be written to.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        draft = path.with_name(f".{path.name}.{os.getpid()}")
        with draft.open("w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        draft.replace(path)
    except OSError as error:
        raise Misconfigured(f"{path} cannot be written: {error.strerror}") from error
