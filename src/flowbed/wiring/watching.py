"""Opens a watch from the settings of a project."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from flowbed import settings
from flowbed.events.alerts import Alerts
from flowbed.events.schedule import seconds_of
from flowbed.events.subscribers import Command, Copy, Subscriber, Webhook
from flowbed.events.watch import Watch
from flowbed.storage import open_store
from flowbed.wiring import process
from flowbed.wiring.events import open_webhook, watched_sources

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from flowbed.events.subscribers import Delivery
    from flowbed.events.watch import Say, Steps
    from flowbed.http.client import HttpClient
    from flowbed.ledger import Ledger
    from flowbed.settings import Settings
    from flowbed.settings.project import SubscriberSettings
    from flowbed.storage import Store


@asynccontextmanager
async def open_watch(
    config: Settings, *, folder: Path, store: Store, ledger: Ledger, steps: Steps, say: Say
) -> AsyncIterator[Watch]:
    """Open a watch, and close its connections at the end.

    Raises:
        Misconfigured: a schedule or the webhook is invalid.
    """
    sources = watched_sources(config, folder)
    clients: list[HttpClient] = []
    webhook = open_webhook(config.watch.webhook, "[watch]")
    try:
        clients += [webhook] if webhook is not None else []
        subscribers = [
            await asyncio.to_thread(open_subscriber, each, config, folder, store, clients)
            for each in config.subscribers
        ]
        yield Watch(
            sources=sources,
            steps=steps,
            ledger=ledger,
            subscribers=subscribers,
            alerts=Alerts(webhook, name_of(folder), process.now),
            clock=process.now,
            say=say,
            look_every=seconds_of(config.watch.list_every),
            polling=config.watch.polling,
        )
    finally:
        for each in clients:
            await each.aclose()


def open_subscriber(
    each: SubscriberSettings, config: Settings, folder: Path, store: Store, clients: list[HttpClient]
) -> Subscriber:
    """Open what delivers to a subscriber; a client that has to be closed is added to `clients`.

    Raises:
        Misconfigured: its address is invalid.
    """
    delivery: Delivery
    if each.command:
        delivery = Command(command=each.command, folder=str(folder), seconds=float(seconds_of(each.timeout)))
    elif client := open_webhook(each.webhook, f"subscriber {each.name}"):
        clients.append(client)
        delivery = Webhook(poster=client)
    else:
        options = settings.store_options(config, each.copy_to) if each.copy_to.startswith("s3://") else {}
        delivery = Copy(store=store, to=open_store(each.copy_to, folder=folder, options=options))
    return Subscriber(name=each.name, delivery=delivery, sources=frozenset(each.sources))


def name_of(folder: Path) -> str:
    """Return the name of a project's folder."""
    return folder.absolute().name
