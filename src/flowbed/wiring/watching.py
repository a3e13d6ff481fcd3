"""Opens a watch from the settings of a project."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from flowbed.events.alerts import Alerts
from flowbed.events.schedule import seconds_of
from flowbed.events.watch import Watch
from flowbed.wiring import process
from flowbed.wiring.events import open_webhook, watched_sources

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from flowbed.events.watch import Say, Steps
    from flowbed.ledger import Ledger
    from flowbed.settings import Settings


@asynccontextmanager
async def open_watch(
    config: Settings, *, folder: Path, ledger: Ledger, steps: Steps, say: Say
) -> AsyncIterator[Watch]:
    """Open a watch, and close its connections at the end.

    Raises:
        Misconfigured: a schedule or the webhook is invalid.
    """
    sources = watched_sources(config, folder)
    webhook = open_webhook(config.watch.webhook)
    try:
        yield Watch(
            sources=sources,
            steps=steps,
            documents=ledger.documents,
            alerts=Alerts(webhook, name_of(folder), process.now),
            clock=process.now,
            say=say,
            look_every=seconds_of(config.watch.list_every),
            polling=config.watch.polling,
        )
    finally:
        if webhook is not None:
            await webhook.aclose()


def name_of(folder: Path) -> str:
    """Return the name of a project's folder."""
    return folder.absolute().name
