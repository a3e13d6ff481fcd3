"""The file `flowbed.toml`: created, extended, and written atomically."""

from __future__ import annotations

from collections.abc import Mapping, MutableMapping
from typing import TYPE_CHECKING, Any

from flowbed.errors import Misconfigured, NotFound
from flowbed.records.values import suggestion
from flowbed.settings.project import FILE, checked_name, read_settings
from flowbed.storage.atomic import write_whole

if TYPE_CHECKING:
    from pathlib import Path

    from flowbed.settings.project import SourceSettings

# Fields of a source that say when a watch fetches it.
SCHEDULE = ("every", "cron", "timezone")
# Written by `flowbed init`.
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


def add_source(folder: Path, name: str, source: SourceSettings) -> None:
    """Add a `[sources.NAME]` table to `flowbed.toml`, or change the one of that name; comments and order are kept.

    Raises:
        Misconfigured: the name is invalid, or the file cannot be read or written.
    """
    # tomlkit keeps comments and order but is slow to load, as is pydantic.
    import tomlkit
    from tomlkit.exceptions import TOMLKitError

    from flowbed.settings.checking import validated

    checked_name(name, "source")
    read_settings(folder)  # never overwrite a file that cannot be read
    path = folder / FILE
    values: dict[str, Any] = {"kind": source.kind, "location": source.location}
    if source.collection is not None:
        values["collection"] = source.collection
    values |= {key: value for key in SCHEDULE if (value := getattr(source, key))}
    if source.options:
        values["options"] = source.options
    validated({"sources": {name: values}}, path)  # never write what cannot be read again
    try:
        file = tomlkit.parse(path.read_text("utf-8-sig")) if path.exists() else tomlkit.document()
    except TOMLKitError as error:
        raise Misconfigured(f"{path} is not valid TOML: {error}") from error
    sources = file.setdefault("sources", tomlkit.table(is_super_table=True))
    if name in sources:
        _update(sources[name], values)
    else:
        sources[name] = values
    write_whole(path, tomlkit.dumps(file).encode())


def _update(table: MutableMapping[str, Any], values: Mapping[str, Any]) -> None:
    """Give a table of the file these values; what stays the same keeps its place and its comments."""
    for key in table.keys() - values.keys():
        del table[key]
    for key, value in values.items():
        there = table.get(key)
        if isinstance(there, MutableMapping) and isinstance(value, Mapping):
            _update(there, value)
        elif there != value:
            table[key] = value


def remove_source(folder: Path, name: str) -> None:
    """Remove the `[sources.NAME]` table from `flowbed.toml`; comments elsewhere and order are kept.

    Raises:
        NotFound: it has no such source.
        Misconfigured: the file cannot be read or written.
    """
    import tomlkit

    known = read_settings(folder).sources
    path = folder / FILE
    file = tomlkit.parse(path.read_text("utf-8-sig")) if path.exists() else tomlkit.document()
    if name not in file.get("sources", {}):
        raise NotFound(
            f"no source is called {name!r} in {path}{suggestion(name, known)};"
            f" there are: {', '.join(sorted(known)) or 'none'}"
        )
    del file["sources"][name]
    write_whole(path, tomlkit.dumps(file).encode())
