"""The sources that the settings name, opened for a run: where documents come from, and how they are chunked."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from flowbed import settings
from flowbed.chunking import Rules
from flowbed.errors import Misconfigured
from flowbed.lanes.claims import WAITING
from flowbed.pipeline import ConfiguredSource
from flowbed.sources import open_source
from flowbed.sources.tombstones import RemovedSource

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping, Sequence
    from pathlib import Path

    from flowbed.ledger import Ledger
    from flowbed.pipeline.staging import StagedPlan

# Options of a source that are the chunker's; all others are the source's own.
CHUNKING = ("capacity", "neighbours")
FOREVER = 2**62  # µs: later than any clock tells


async def open_feeds(
    names: Sequence[str],
    known: Mapping[str, settings.SourceSettings],
    *,
    folder: Path,
    ledger: Ledger,
    clock: Callable[[], int],
    removed: bool,
) -> dict[str, ConfiguredSource]:
    """Open the sources named, or all that are known; with `removed` also what is left of those that are no more.

    Raises:
        Misconfigured: a source is not known, or cannot be opened.
    """
    opened = {}
    for name in names or known:
        if name in known:
            opened[name] = open_feed(name, known[name], folder=folder, clock=clock)
        elif removed and await _left(name, ledger):
            opened[name] = removed_feed(name)
        else:
            raise Misconfigured(await _unknown(name, known, ledger))
    if not opened:
        raise Misconfigured(
            "this project has no sources yet; add one, such as: flowbed add handbook files docs/"
        )
    return opened


def removed_feed(name: str) -> ConfiguredSource:
    """Open what is left of a source that the settings do not name any more."""
    return ConfiguredSource(source=RemovedSource(), rules=Rules(source=name, collections=(name,)))


def removed_feeds(plan: StagedPlan, *, known: Collection[str]) -> dict[str, ConfiguredSource]:
    """Open the sources of a plan that are no longer configured, where the plan only deletes from them."""
    return {
        name: removed_feed(name)
        for name, source in plan.sources.items()
        if name not in known and not any(part.batch for part in source.parts)
    }


async def _left(name: str, ledger: Ledger) -> bool:
    """Tell whether anything of a source is still to be deleted: documents, or chunks of a removal that was stopped."""
    if await ledger.documents.count(name):
        return True
    # Asked of the end of time, since what a process that was killed has claimed waits as well.
    return bool([page async for page in ledger.chunks.batches(WAITING, now=FOREVER, sources=(name,))])


async def _unknown(name: str, known: Mapping[str, settings.SourceSettings], ledger: Ledger) -> str:
    if await _left(name, ledger):
        return (
            f"{name} is no source of this project any more; `flowbed run {name} --allow-deletes` deletes what is"
            " indexed of it, and `flowbed add` takes it up again"
        )
    there = (
        f"there are: {', '.join(sorted(known))}" if known else "there are none yet; `flowbed add` makes one"
    )
    return f"no source is called {name!r}; {there}"


def add(
    folder: Path, name: str, *, kind: str, location: str, collection: str | None, options: Mapping[str, Any]
) -> None:
    """Write a source into the `flowbed.toml` of `folder`, once it is seen that it can be opened.

    Raises:
        Misconfigured: the name, the kind, the location or an option cannot be used.
    """
    source = settings.SourceSettings(
        kind=kind, location=location, collection=collection, options=dict(options)
    )
    open_feed(name, source, folder=folder, clock=lambda: 0)  # nothing is fetched
    if (
        "://" not in location
        and not (folder / location).exists()
        and not any(mark in location for mark in "*?[")
    ):
        raise Misconfigured(
            f"location {location!r} of source {name!r} does not exist below {folder}; give a path that does"
        )
    settings.add_source(
        folder, name, kind=kind, location=location, collection=collection, options=dict(options)
    )


def open_feed(
    name: str, source: settings.SourceSettings, *, folder: Path, clock: Callable[[], int]
) -> ConfiguredSource:
    """Open a source and decide how it is chunked, and into which collections.

    Raises:
        Misconfigured: the kind is unknown, or an option is.
    """
    settings.checked_name(name, "source")
    own = {key: value for key, value in source.options.items() if key not in CHUNKING}
    collections: tuple[str, ...] = (source.collection or name,)
    if source.kind == "receipts":
        prefix = f"{source.collection}-" if source.collection else ""
        collections = (f"{prefix}lines", f"{prefix}words")
    return ConfiguredSource(
        source=open_source(source.kind, source.location, folder=folder, options=own, clock=clock),
        rules=Rules(
            source=name,
            collections=collections,
            **{key: _whole(source.options[key], key) for key in CHUNKING if key in source.options},
        ),
    )


def _whole(value: object, key: str) -> int:
    try:
        return int(str(value))
    except ValueError:
        raise Misconfigured(f"option {key} is {value!r}; it has to be a whole number") from None
