"""Trouble that lasts: said in the log once when it begins, and once when it is over."""

from __future__ import annotations

from typing import TYPE_CHECKING

from flowbed.telemetry import log

if TYPE_CHECKING:
    from collections.abc import Callable


# So soon after the end of an outage (seconds), failures are late news of it: threads of the engine find out for
# themselves that their connections are lost.
SETTLING = 10.0


class Outage:
    """Whether something that a worker needs is away; may be called from any thread."""

    def __init__(self, what: str, *, monotonic: Callable[[], float]) -> None:
        """Name what may be away; `monotonic` returns seconds."""
        self._what, self._monotonic = what, monotonic
        self._since: float | None = None
        self._ended = float("-inf")

    @property
    def lasts(self) -> bool:
        """Whether it is away."""
        return self._since is not None

    def failed(self, reason: object) -> None:
        """Report that it could not be reached."""
        now = self._monotonic()
        if self._since is None and now - self._ended >= SETTLING:
            self._since = now
            log.warning("waiting for %s, nothing is lost: %s", self._what, reason)

    def over(self, *, asked: float) -> None:
        """Report that it has answered a call that was begun at `asked`, in monotonic seconds.

        A call from before the outage may have been answered, and heard of only now.
        """
        if self._since is not None and asked >= self._since:
            self._ended = self._monotonic()
            log.warning("%s is back after %.0f s", self._what, self._ended - self._since)
            self._since = None
