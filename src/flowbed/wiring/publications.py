"""The publications that the settings name, and what they work with."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import TYPE_CHECKING

from flowbed import settings
from flowbed.errors import Misconfigured
from flowbed.publish import PublishContext
from flowbed.publish.due import Configured
from flowbed.storage import open_store
from flowbed.wiring import process

if TYPE_CHECKING:
    from flowbed.index.datasets import Datasets
    from flowbed.publish.chroma.pull import Pulled, StorageMode
    from flowbed.settings import Settings
    from flowbed.storage import Store


def configured(config: Settings) -> list[Configured]:
    """Return the publications of the settings; one that names no collections publishes the one of its own name."""
    return [
        Configured(
            name=name,
            kind=each.kind,
            every=each.every,
            collections=tuple(each.collections) or (name,),
            options=each.options,
        )
        for name, each in config.publish.items()
    ]


def publish_context(name: str, *, hidden: Path, store: Store, datasets: Datasets) -> PublishContext:
    """Return what a publication works with; `hidden` is the project's own folder."""
    return PublishContext(
        name=name,
        store=store,
        datasets=datasets,
        scratch=hidden / "publish" / name,
        clock=process.now,
        worker=process.worker(),
        dead=process.dead,
    )


def storage_mode(mode: str | None) -> tuple[StorageMode, Path | None]:
    """Return a storage mode, by default that of the environment, and where a shared file system is mounted.

    Raises:
        Misconfigured: the mode is unknown.
    """
    from flowbed.publish.chroma.pull import MODES

    named, root = settings.snapshot_mode()
    wanted = mode or named or "auto"
    chosen = next((each for each in MODES if each == wanted), None)
    if chosen is None:
        raise Misconfigured(
            f"storage mode {wanted!r} is unknown; choose {', '.join(MODES[:-1])} or {MODES[-1]}"
        )
    return chosen, Path(root) if root else None


async def pull_snapshot(
    folder: Path, collection: str, directory: Path, *, mode: str | None, store: str | None
) -> Pulled:
    """Pull a snapshot with the settings of the project in `folder`, if there are any; no ledger is opened.

    Raises:
        NotFound: nothing is published.
        Misconfigured: the mode is unknown, or the store cannot be used.
    """
    from flowbed.publish.chroma.pull import pull

    config = await asyncio.to_thread(settings.read_settings, folder)
    chosen, root = storage_mode(mode)
    url = store or settings.snapshot_store(config)
    opened = await asyncio.to_thread(
        open_store, url, folder=folder, options=settings.store_options(config, url)
    )
    return await pull(opened, collection, directory, mode=chosen, root=root)
