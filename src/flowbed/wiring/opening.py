"""Opens what a project consists of: its folder, settings, store and ledger."""

from __future__ import annotations

import asyncio
import secrets
from typing import TYPE_CHECKING, NamedTuple

from flowbed import settings
from flowbed.errors import Misconfigured
from flowbed.ledger import open_ledger
from flowbed.ledger.sql.lazy_ledger import find_ledger
from flowbed.storage import open_store

if TYPE_CHECKING:
    from pathlib import Path

    from flowbed.lanes.contexts import RunContext
    from flowbed.ledger import Ledger
    from flowbed.maintenance.doctor import Diagnosis
    from flowbed.maintenance.doctor.findings import DoctorContext
    from flowbed.storage import Store

HIDDEN = ".flowbed"


class Opened(NamedTuple):
    """A project's folder, settings, store and ledger."""

    folder: Path
    config: settings.Settings
    store: Store
    ledger: Ledger


async def open_project(folder: Path) -> Opened:
    """Open the project in `folder`, made where absent; its store and its ledger may be those of two projects.

    Raises:
        Misconfigured: its folder, settings, store or ledger cannot be used.
    """
    place = await asyncio.to_thread(_make_folder, folder)
    config = await asyncio.to_thread(settings.read_settings, place)
    store = await asyncio.to_thread(
        open_store, config.store, folder=place, options=settings.store_options(config)
    )
    ledger = await asyncio.to_thread(find_ledger, config.ledger, folder=place) or await open_ledger(
        config.ledger, folder=place, new_id=secrets.token_hex(16)
    )
    return Opened(place, config, store, ledger)


def _make_folder(folder: Path) -> Path:
    place = folder.expanduser().absolute()
    try:
        (place / HIDDEN).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise Misconfigured(f"the project folder {place} cannot be used: {error.strerror}") from error
    return place


def damaged_ledger(folder: Path, error: Misconfigured) -> Diagnosis | None:
    """Diagnose a ledger that is a file and cannot be opened, with the commands that replace it; None elsewhere."""
    name = settings.read_settings(folder).ledger
    file = (folder / name).absolute()
    if "://" in name or not file.is_file():
        return None
    from flowbed.maintenance.doctor import broken_ledger

    return broken_ledger(name, file, error)


def doctor_context(context: RunContext, folder: Path, vector_file: Path) -> DoctorContext:
    """Add what the doctor looks at outside the store and the ledger."""
    import psutil

    from flowbed.embedding.cache.disk import damage_of
    from flowbed.maintenance.doctor.findings import DoctorContext

    url = context.store.url
    path = url.removeprefix("file://") if url.startswith("file://") else ""
    return DoctorContext(
        **vars(context),
        store_path=path or url,
        free_bytes=lambda: psutil.disk_usage(path or str(folder)).free,
        cache_fault=lambda: damage_of(vector_file),
    )
