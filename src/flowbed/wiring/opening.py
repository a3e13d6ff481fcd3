"""Opens what a project consists of: its folder, settings, store and ledger."""

from __future__ import annotations

import asyncio
import secrets
from typing import TYPE_CHECKING, NamedTuple

from flowbed import settings
from flowbed.errors import Damaged, Misconfigured, Newer
from flowbed.ledger import open_ledger
from flowbed.ledger.sql.lazy_ledger import find_ledger
from flowbed.storage import open_store
from flowbed.storage.atomic import OWNER_FOLDER

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


async def open_project(folder: Path, *, repair: bool = False) -> tuple[Opened, str]:
    """Open the project in `folder`, made where absent; its store and its ledger may be those of two projects.

    With `repair`, a damaged ledger is repaired first; what was done is returned with the project.

    Raises:
        Misconfigured: its folder, settings, store or ledger cannot be used.
        Damaged: the ledger's file is damaged.
        Newer: a newer Flowbed made the ledger.
    """
    place = await asyncio.to_thread(make_folder, folder)
    config = await asyncio.to_thread(settings.read_settings, place)
    store = await asyncio.to_thread(
        open_store, config.store, folder=place, options=settings.store_options(config)
    )
    done = await asyncio.to_thread(_repair_ledger, config.ledger, place) if repair else ""
    ledger = await asyncio.to_thread(find_ledger, config.ledger, folder=place) or await open_ledger(
        settings.ledger_url(config),
        folder=place,
        new_id=secrets.token_hex(16),
        connections=config.ledger_connections,
    )
    return Opened(place, config, store, ledger), done


def make_folder(folder: Path) -> Path:
    """Return the absolute path of a project's folder, made where absent.

    Raises:
        Misconfigured: it cannot be used.
    """
    place = folder.expanduser().absolute()
    try:
        (place / HIDDEN).mkdir(OWNER_FOLDER, parents=True, exist_ok=True)
    except OSError as error:
        raise Misconfigured(f"the project folder {place} cannot be used: {error.strerror}") from error
    return place


def ledger_file(ledger: str, *, folder: Path) -> Path | None:
    """Return the file of a ledger in SQLite; None for one on a server."""
    path = ledger.removeprefix("sqlite:///")
    return None if "://" in path else (folder / path).absolute()


def _repair_ledger(ledger: str, folder: Path) -> str:
    from flowbed.ledger.sql.salvage import salvage

    file = ledger_file(ledger, folder=folder)
    if file is None:
        return ""
    return salvage(file, own=(folder / HIDDEN) in file.parents, new_id=secrets.token_hex(16))


async def undiagnosable(folder: Path, error: Misconfigured) -> Diagnosis | None:
    """Diagnose a project that cannot be opened: its ledger is damaged, or newer; None for any other cause."""
    from flowbed.maintenance.doctor import broken_ledger, made_by_newer_flowbed

    if not isinstance(error, Damaged | Newer):
        return None
    name = (await asyncio.to_thread(settings.read_settings, folder)).ledger
    return broken_ledger(name, error) if isinstance(error, Damaged) else made_by_newer_flowbed(name, error)


def doctor_context(
    context: RunContext, folder: Path, config: settings.Settings, vector_file: Path
) -> DoctorContext:
    """Add what the doctor looks at outside the store and the ledger."""
    import psutil

    from flowbed.embedding.cache.disk import damage_of as cache_damage
    from flowbed.ledger.sql.salvage import damage_of
    from flowbed.maintenance.doctor.findings import DoctorContext
    from flowbed.storage import folder_of
    from flowbed.wiring.sources import configured_places

    path = folder_of(context.store.url)
    file = ledger_file(config.ledger, folder=folder)
    hidden = folder / HIDDEN
    return DoctorContext(
        **vars(context),
        # What lies in a closed folder cannot be reached.
        private_paths=[hidden, *(each for each in (path, file) if each and hidden not in each.parents)],
        store_path=context.store.url if path is None else str(path),
        free_bytes=lambda: psutil.disk_usage(str(path or folder)).free,
        cache_fault=lambda: cache_damage(vector_file),
        missing_model=lambda: _missing_model(context, config.model),
        configured_places=lambda: configured_places(config.sources, folder=folder, clock=context.clock),
        ledger_fault=lambda: "" if file is None else damage_of(file),
    )


def _missing_model(context: RunContext, model: str) -> tuple[str, str] | None:
    """Return what is said about a local model that is not installed, and the command that installs it."""
    if model.partition(":")[0] != "onnx":
        return None  # opening others may take seconds, or need a network
    from flowbed.embedding.local.weights import NotInstalled

    try:
        context.embedder()
    except NotInstalled as error:
        return str(error).partition("\n")[0].removesuffix(":"), error.command
    except Misconfigured:
        return None  # a run says it
    return None
