"""What the event-driven flow works with, from the settings of a project."""

from __future__ import annotations

from typing import TYPE_CHECKING

from flowbed.events.intake import IntakeContext
from flowbed.settings.project import NAME, RESERVED

if TYPE_CHECKING:
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
        is_name=lambda name: bool(NAME.fullmatch(name)) and name not in RESERVED,
    )
