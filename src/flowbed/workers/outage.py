"""Trouble that lasts: said in the log once when it begins, and once when it is over."""

from __future__ import annotations

from typing import TYPE_CHECKING

from flowbed.telemetry import log

if TYPE_CHECKING:
    from collections.abc import Callable


class Outage:
    """Whether something that a worker needs is away; may be called from any thread."""

    def __init__(self, what: str, *, monotonic: Callable[[], float]) -> None:
        """Name what may be away; `monotonic` returns seconds."""
        self._what, self._monotonic = what, monotonic
        self._since: float | None = None

    @property
    def lasts(self) -> bool:
        """Whether it is away."""
        return self._since is not None

    def failed(self, reason: object) -> None:
        """Report that it could not be reached."""
        if self._since is None:
            self._since = self._monotonic()
            log.warning("waiting for %s, nothing is lost: %s", self._what, reason)

    def over(self) -> None:
        """Report that it was reached."""
        if self._since is not None:
            log.warning("%s is back after %.0f s", self._what, self._monotonic() - self._since)
            self._since = None
