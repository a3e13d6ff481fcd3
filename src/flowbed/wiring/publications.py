"""The publications that the settings name, and what they work with."""

from __future__ import annotations

from typing import TYPE_CHECKING

from flowbed.publish import PublishContext
from flowbed.publish.due import Configured
from flowbed.wiring import process

if TYPE_CHECKING:
    from pathlib import Path

    from flowbed.index.datasets import Datasets
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
