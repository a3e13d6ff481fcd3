"""The command that follows sources, keeps their schedules and embeds what waits, until stopped."""

from __future__ import annotations

import asyncio
import signal
from typing import TYPE_CHECKING, Any

from flowbed.cli.options import Common
from flowbed.cli.printing.output import note, say, say_json
from flowbed.cli.project import DONE, INTERRUPTED
from flowbed.records.values import count

if TYPE_CHECKING:
    from collections.abc import Mapping

    from flowbed.bed import Flowbed


def watch(common: Common) -> int:
    """Fetch sources when their files change or they are due, and embed what waits, until stopped."""
    signals: list[int] = []

    async def watched(bed: Flowbed) -> None:
        stop = asyncio.Event()

        def end(number: int) -> None:
            signals.append(number)
            stop.set()

        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, end, number)
        await bed.watch(stop=stop, say=say_json if common.as_json else show)

    common.with_bed(watched)
    return INTERRUPTED if signal.SIGINT in signals else DONE


def show(event: Mapping[str, Any]) -> None:
    """Print what happened: results on standard output, failures on standard error."""
    kind = event["event"]
    if kind == "watching":
        followed = f"; {', '.join(event['followed'])} as they change" if event["followed"] else ""
        note(f"watching {count(len(event['sources']), 'source')}{followed}; Ctrl-C stops it")
    elif kind == "fetched":
        changed = f"{count(event['documents'], 'document')}, {count(event['chunks'], 'chunk')}"
        say(f"{event['source']}: {changed} to embed, {event['deleted']:,} to delete")
    elif kind == "embedded":
        waiting = f"; {event['waiting']:,} wait" if event["waiting"] else ""
        say(f"{count(event['chunks'], 'chunk')} indexed, {event['deleted']:,} deleted{waiting}")
    elif kind == "failed":
        note(f"{event['what']} failed: {event['reason']}; `{event['fix']}` says more")
