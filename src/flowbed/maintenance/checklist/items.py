"""What the checklist reports, and the table of its stages."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Literal

from flowbed.errors import Damaged, Error, Newer
from flowbed.maintenance.doctor import UPGRADE
from flowbed.maintenance.doctor.findings import CHECKS, DoctorContext
from flowbed.maintenance.store_binding import Unbound

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from contextlib import AbstractContextManager
    from pathlib import Path

    from flowbed.maintenance.inconsistencies import Fault
    from flowbed.publish import PublishContext
    from flowbed.publish.due import Configured

State = Literal["ok", "waiting", "failed", "not used"]

# Seconds for one stage, and for all. A store retries for a minute before it gives up; a larger share of the time would
# go to the first stage that needs it.
STAGE_SECONDS, ALL_SECONDS = 60.0, 180.0
AGAIN = "flowbed doctor --checklist"
REPAIR = "flowbed verify --repair; flowbed run"


@dataclass(frozen=True, kw_only=True)
class Item:
    """One item: the state of a stage for one subject (a source, a collection, a publication).

    `found` says what was found, `figures` the numbers in it, `how` what was looked at. `fix` is the command that fixes
    a failed item, or that completes one that waits; empty where there is nothing to do.
    """

    stage: str = ""
    subject: str
    state: State
    found: str
    figures: Mapping[str, int] = field(default_factory=dict)
    how: str = ""
    fix: str = ""


@dataclass(frozen=True, kw_only=True)
class Checklist:
    """The items of all stages, in the order of the data flow; every stage has at least one."""

    items: tuple[Item, ...]

    @property
    def failed(self) -> tuple[Item, ...]:
        """The items that need attention."""
        return tuple(each for each in self.items if each.state == "failed")


@dataclass(frozen=True, kw_only=True)
class ChecklistContext(DoctorContext):
    """A context with the publications of the settings.

    `scratch` makes a local folder for what has to be downloaded to be looked at; `mount` is the shared file system from
    which readers may take snapshots, if there is one. `publish_context` is what a publication, by name, works with.
    `faults` keeps what comparing a collection has found, by
    collection: several stages use it.
    """

    publications: Sequence[Configured]
    scratch: Callable[[], AbstractContextManager[Path]]
    mount: Path | None
    publish_context: Callable[[str], PublishContext]
    faults: dict[str, tuple[Fault, ...]] = field(default_factory=dict)


Look = Callable[[ChecklistContext], AsyncIterator[Item]]


@dataclass(frozen=True, kw_only=True)
class Stage:
    """One stage: what looks at it, how that is done, and what is said where it has nothing to look at."""

    name: str
    how: str
    unused: str
    look: Look


STAGES: dict[str, Stage] = {}


def stage(name: str, *, how: str, unused: str) -> Callable[[Look], Look]:
    """Register a stage under a name."""

    def register(look: Look) -> Look:
        STAGES[name] = Stage(name=name, how=how, unused=unused, look=look)
        return look

    return register


async def walk(context: ChecklistContext) -> Checklist:
    """Look at every stage, each for itself and in bounded time: one that cannot be looked at is a failed item."""
    items: list[Item] = []
    until = context.monotonic() + ALL_SECONDS
    for each in STAGES.values():
        seconds = min(STAGE_SECONDS, until - context.monotonic())
        items += [
            replace(item, stage=each.name, how=each.how) for item in await _items(each, context, seconds)
        ]
    return Checklist(items=tuple(items))


async def _items(each: Stage, context: ChecklistContext, seconds: float) -> list[Item]:
    items: list[Item] = []
    try:
        async with asyncio.timeout(seconds):
            items += [item async for item in each.look(context)]
    except TimeoutError:
        found = "there was no answer in time; other stages took the time, or the store or the ledger is slow"
        items.append(Item(subject=each.name, state="failed", found=found, fix=AGAIN))
    except Error as error:
        items.append(Item(subject=each.name, state="failed", found=str(error), fix=_fix(error)))
    except Exception as error:  # noqa: BLE001 - what nothing foresaw is a result too, and the other stages go on
        found = f"it could not be looked at: {type(error).__name__}: {error}"
        items.append(Item(subject=each.name, state="failed", found=found, fix=AGAIN))
    return items or [Item(subject=each.name, state="not used", found=each.unused)]


def _fix(error: Error) -> str:
    if isinstance(error, Newer):
        return UPGRADE
    if isinstance(error, Unbound):
        return error.fix
    return REPAIR if isinstance(error, Damaged) else AGAIN


async def findings(context: ChecklistContext, *names: str) -> list[Item]:
    """Return what checks of the doctor find, as failed items."""
    return [
        Item(subject=each.subject, state="failed", found=each.what, fix=each.fix)
        for name in names
        async for each in CHECKS[name](context)
        if each.severity != "note"
    ]
