"""What the event-driven flow works with, from the settings of a project."""

from __future__ import annotations

from typing import TYPE_CHECKING

from flowbed.errors import Misconfigured
from flowbed.events.intake import IntakeContext
from flowbed.records.names import is_name
from flowbed.sources.locations import located

if TYPE_CHECKING:
    from pathlib import Path

    from flowbed.events.watch import Watched
    from flowbed.http.client import HttpClient
    from flowbed.lanes.contexts import ModelContext
    from flowbed.settings import Settings


def intake_context(config: Settings, context: ModelContext) -> IntakeContext:
    """Return what taking in batch files works with."""
    return IntakeContext(
        context=context,
        collections={
            name: source.collection or name
            for name, source in config.sources.items()
            if source.kind != "receipts"
        },
        is_name=is_name,
    )


def watched_sources(config: Settings, folder: Path) -> dict[str, Watched]:
    """Return when each source is due, and what of it is followed: files and folders on this machine.

    Raises:
        Misconfigured: a schedule is invalid.
    """
    from flowbed.events.schedule import schedule
    from flowbed.events.watch import Watched

    return {
        name: Watched(
            schedule=schedule(
                name,
                every=source.every or ("" if source.cron else config.watch.every),
                cron=source.cron,
                timezone=source.timezone,
            ),
            place=_followed(source.location, folder),
        )
        for name, source in config.sources.items()
    }


def _followed(location: str, folder: Path) -> Path | None:
    """Return the file or folder of a location, of a pattern the folder of its first wildcard; None for a URL."""
    if "://" in location:
        return None
    place = located(location, folder).absolute()
    while not place.exists() and any(mark in str(place) for mark in "*?["):
        place = place.parent
    return place


def open_webhook(url: str, place: str) -> HttpClient | None:
    """Open the client of a webhook that `place` of the settings names, None without one.

    Raises:
        Misconfigured: it is not a URL.
    """
    if not url:
        return None
    from flowbed.http.client import HttpClient

    try:
        return HttpClient(url, vendor="the webhook", headers={}, secrets=[url])
    except Misconfigured:
        raise Misconfigured(f"webhook of {place} is not a URL; write it as https://host/path") from None
