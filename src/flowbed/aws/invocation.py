"""What all handlers share: one call of a function, with its project, its logs, its metrics and its errors."""

from __future__ import annotations

import asyncio
import functools
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, Any

from flowbed import settings
from flowbed.aws.logs import Lines
from flowbed.bed import aopen
from flowbed.errors import Conflict, Error, Transient
from flowbed.telemetry import RUN_RECORDED, log
from flowbed.wiring import process

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from flowbed.bed import Flowbed
    from flowbed.ledger import DeadLetters

    Work = Callable[[Any, "Invocation"], Awaitable[Any]]
    Handler = Callable[[Any, Any], Any]

# Seconds of a call's time that are kept for giving back what it holds, and the share of it, where that is less.
MARGIN, SHARE = 10.0, 0.1


class Invocation:
    """One call of a function; `lines` writes its logs and metrics."""

    def __init__(self, lines: Lines, deployment: settings.Deployment, opened: AsyncExitStack) -> None:
        """Open nothing yet."""
        self.lines, self.deployment = lines, deployment
        self._opened = opened
        self._bed: Flowbed | None = None

    async def project(self) -> Flowbed:
        """Return the project of this function, opened at the first call and closed with the invocation.

        Raises:
            Misconfigured: its settings, or the variables of the function, cannot be used.
        """
        if self._bed is None:
            if settings.secrets_named():
                from flowbed.aws.secrets import read_secret  # loads boto3

                settings.resolve_secrets(read_secret)
            folder = await asyncio.to_thread(settings.function_folder)
            self._bed = await self._opened.enter_async_context(aopen(folder))
        return self._bed

    async def dead_letters(self) -> DeadLetters:
        """Return the dead letters of the project, without opening its store: a role may allow no more.

        Raises:
            Misconfigured: its settings, or the variables of the function, cannot be used.
        """
        from flowbed.wiring.opening import open_project

        opened, _ = await open_project(await asyncio.to_thread(settings.function_folder))
        self._opened.push_async_callback(opened.ledger.close)
        return opened.ledger.dead_letters

    def now(self) -> int:
        """Return the time in microseconds since 1970."""
        return process.now()

    def runs(self) -> list[dict[str, Any]]:
        """Return what was told of each run that this call has recorded: its `run`, `collection`, `key`, `batches`."""
        return [facts for point, facts in self.lines.points if point == RUN_RECORDED]


def lambda_handler(work: Work) -> Handler:
    """Make a Lambda handler: its errors are those of Flowbed's tree, and a call that runs out of time gives all back.

    Any `Transient` or `Conflict` is raised as that class itself, so that one name in a Retry list covers it.
    """

    @functools.wraps(work)
    def handle(event: Any, context: Any) -> Any:
        deployment = settings.deployment()
        with Lines(
            function=deployment.function or getattr(context, "function_name", ""),
            request=str(getattr(context, "aws_request_id", "")),
        ) as lines:
            try:
                return asyncio.run(_within_its_time(work, event, context, lines, deployment))
            except Error as error:
                lines.failed(error)
                for kind in (Transient, Conflict):
                    if isinstance(error, kind) and type(error) is not kind:
                        raise kind(str(error)) from error
                raise
            except Exception as error:
                lines.failed(error)
                raise

    return handle


async def _within_its_time(
    work: Work, event: Any, context: Any, lines: Lines, deployment: settings.Deployment
) -> Any:
    """Do the work, stopped in time to give back what it holds.

    Raises:
        Transient: it ran out of time.
    """
    left = getattr(context, "get_remaining_time_in_millis", None)
    seconds = left() / 1_000 if left is not None else None
    limit = None if seconds is None else seconds - min(MARGIN, SHARE * seconds)
    try:
        async with asyncio.timeout(limit) as timer, AsyncExitStack() as opened:
            return await work(event, Invocation(lines, deployment, opened))
    except TimeoutError:
        if not timer.expired():
            raise
        log.warning("the call has run out of time, and gives back what it holds")
        raise Transient(
            f"the function's {seconds:.0f} s are over; what it did is kept, and the next call goes on from there:"
            " give the function more time, or the call less work"
        ) from None
