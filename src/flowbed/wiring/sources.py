"""Opens the configured sources: where documents come from, and how they are chunked."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from flowbed import settings
from flowbed.chunking import Rules
from flowbed.errors import Error, Misconfigured, Rejected
from flowbed.lanes.claims import WAITING
from flowbed.pipeline import ConfiguredSource
from flowbed.records.precomputed import is_precomputed, precomputed_source
from flowbed.records.values import shown, suggestion
from flowbed.records.written import is_documents
from flowbed.sources import Local, Looking, open_source
from flowbed.sources.locations import located
from flowbed.sources.tombstones import RemovedSource

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping, Sequence
    from pathlib import Path

    from flowbed.ledger import Ledger
    from flowbed.maintenance.doctor.findings import ConfiguredPlace
    from flowbed.pipeline.staging import StagedPlan

# Options for the chunker; all others are for the source.
CHUNKING = ("capacity", "neighbours")
FOREVER = 2**62  # µs: later than any clock


async def open_feeds(
    names: Sequence[str],
    known: Mapping[str, settings.SourceSettings],
    *,
    folder: Path,
    ledger: Ledger,
    clock: Callable[[], int],
    removed: bool,
) -> dict[str, ConfiguredSource]:
    """Open the named sources, or all of `known`; with `removed`, also sources that are no longer configured.

    Raises:
        Misconfigured: a source is unknown or cannot be opened.
        Rejected: a name is not a string.
    """
    opened = {}
    for name in names or known:
        if not isinstance(name, str):
            raise Rejected(
                f"{name!r} is not the name of a source; pass names one by one: run('chat', 'docs')"
            )
        if name in known:
            opened[name] = open_feed(name, known[name], folder=folder, clock=clock)
        elif removed and not (is_precomputed(name) or is_documents(name)) and await _left(name, ledger):
            opened[name] = removed_feed(name)
        else:
            raise Misconfigured(await _unknown(name, known, ledger))
    if not opened and not await _any_precomputed(ledger):
        raise Misconfigured(
            "this project has no sources yet; add one, such as: flowbed add handbook files docs/"
        )
    return opened


def removed_feed(name: str) -> ConfiguredSource:
    """Open a source that is no longer configured: it lists nothing, so that a run deletes what is left of it."""
    return ConfiguredSource(source=RemovedSource(), rules=Rules(source=name, collections=(name,)))


def removed_feeds(plan: StagedPlan, *, known: Collection[str]) -> dict[str, ConfiguredSource]:
    """Open the sources of a plan that are no longer configured, where the plan only deletes from them."""
    return {
        name: removed_feed(name)
        for name, source in plan.sources.items()
        if name not in known and not any(part.batch for part in source.parts)
    }


async def _any_precomputed(ledger: Ledger) -> bool:
    """Return whether any collection has rows that came with their vectors, which need no source."""
    names = {precomputed_source(collection) for collection, _ in await ledger.chunks.counts()}
    return any(each.documents for each in (await ledger.documents.progress(names)).values())


async def _left(name: str, ledger: Ledger) -> bool:
    """Return whether a source still has documents, or chunks of a removal that was interrupted."""
    if await ledger.documents.count(name):
        return True
    # At the end of time every claim has expired, those of killed processes too.
    return bool([page async for page in ledger.chunks.batches(WAITING, now=FOREVER, sources=(name,))])


async def _unknown(name: str, known: Mapping[str, settings.SourceSettings], ledger: Ledger) -> str:
    if is_precomputed(name):
        return (
            f"{name} is no source to run: its rows came with their vectors, and are changed only by writing or"
            " importing rows"
        )
    if is_documents(name):
        return (
            f"{name} is no source to run: its documents were sent by clients, and jobs write and remove them"
        )
    if await _left(name, ledger):
        return (
            f"{name} is no longer a source of this project; `flowbed run {name} --allow-deletes` deletes what is"
            " indexed of it, and `flowbed add` adds it again"
        )
    existing = (
        f"there are: {', '.join(sorted(known))}" if known else "there are none yet; `flowbed add` adds one"
    )
    return f"no source is called {name!r}{suggestion(name, known)}; {existing}"


@dataclass(frozen=True, kw_only=True)
class Added:
    """What `add` wrote: the source, the one that it changed, and whether it created the project."""

    source: settings.SourceSettings
    before: settings.SourceSettings | None
    created: bool


def add(
    folder: Path, name: str, *, kind: str, location: str, collection: str | None, options: Mapping[str, Any]
) -> Added:
    """Write a source into the `flowbed.toml` of `folder`, after checking that it can be opened.

    A source of that name and kind keeps its collection and the options that are not given.

    Raises:
        Misconfigured: the name, the kind, the location or an option is invalid.
    """
    created = not (folder / settings.FILE).exists()
    before = None if created else settings.read_settings(folder).sources.get(name)
    source = settings.SourceSettings(
        kind=kind, location=location, collection=collection, options=dict(options)
    )
    if before is not None and before.kind == kind:
        source = replace(
            before,
            location=location,
            collection=collection or before.collection,
            options={**before.options, **options},
        )
    open_feed(name, source, folder=folder, clock=lambda: 0)  # only to check it
    if (
        "://" not in location
        and not located(location, folder).exists()
        and not any(mark in location for mark in "*?[")
    ):
        raise Misconfigured(
            f"location {location!r} of source {name!r} does not exist below {folder}; give a path that does"
        )
    settings.add_source(folder, name, source)
    return Added(source=source, before=before, created=created)


async def look(name: str, source: settings.SourceSettings, folder: Path) -> tuple[str, ...]:
    """Ask the API of a source what can be read; nothing for a source without one. A failure is one of the lines."""
    opened = open_feed(name, source, folder=folder, clock=lambda: 0).source
    if not isinstance(opened, Looking):
        return ()
    try:
        return await opened.look()
    except Error as error:
        return (f"{source.location} cannot be read yet: {error}",)


def configured_places(
    known: Mapping[str, settings.SourceSettings], *, folder: Path, clock: Callable[[], int]
) -> list[ConfiguredPlace]:
    """Look where each configured source reads; blocks, and asks no API."""
    from flowbed.maintenance.doctor.findings import ConfiguredPlace

    found = []
    for name, source in known.items():
        place = ConfiguredPlace(name=name, kind=source.kind)
        try:
            opened = open_feed(name, source, folder=folder, clock=clock)
        except Misconfigured as error:
            found.append(replace(place, misset=str(error)))
            continue
        found.append(replace(place, collections=opened.rules.collections, missing=_missing(opened)))
    return found


def _missing(opened: ConfiguredSource) -> str:
    if not isinstance(opened.source, Local):
        return ""
    try:
        opened.source.require_place()
    except Misconfigured as error:
        return str(error)
    return ""


def open_feed(
    name: str, source: settings.SourceSettings, *, folder: Path, clock: Callable[[], int]
) -> ConfiguredSource:
    """Open a source, with its chunking rules and its collections.

    Raises:
        Misconfigured: the kind or an option is unknown.
    """
    settings.checked_name(name, "source")
    own = {key: value for key, value in source.options.items() if key not in CHUNKING}
    collections: tuple[str, ...] = (source.collection or name,)
    if source.kind == "receipts":
        prefix = f"{source.collection}-" if source.collection else ""
        collections = (f"{prefix}lines", f"{prefix}words")
    return ConfiguredSource(
        source=open_source(
            source.kind,
            source.location,
            folder=folder,
            options=own,
            clock=clock,
            token=settings.source_token(source.kind),
        ),
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
        raise Misconfigured(f"option {key} is {shown(value)}; it has to be a whole number") from None
