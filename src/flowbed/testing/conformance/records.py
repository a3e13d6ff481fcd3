"""What an examination is made of and what it finds."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from flowbed.testing.conformance.client import Client

Kind = Literal["sync", "async"]
Verdict = Literal["passed", "failed", "skipped"]
KINDS: tuple[Kind, ...] = ("sync", "async")


class Failed(Exception):  # noqa: N818 - it is a verdict, not an error of the examination
    """The server does something else than the contract says; the message tells what."""


class Skipped(Exception):  # noqa: N818
    """The server has nothing that could be examined; the message tells why."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """The server to examine: `url` is what a client of the SDK takes as its base address.

    An empty `model` is the first that the server lists, one for embeddings if their names tell. `limited_key` is a key
    that may ask no more than about a hundred times a minute. `timeout` is in seconds, for each request.
    """

    url: str
    key: str = ""
    model: str = ""
    limited_key: str = ""
    timeout: float = 60.0


@dataclass(frozen=True, slots=True)
class Check:
    """One sentence of the contract, and how to find out whether a server keeps it."""

    run: Callable[[Client], Awaitable[None]]

    @property
    def sentence(self) -> str:
        """What is checked."""
        return (self.run.__doc__ or "").strip().partition("\n")[0].removesuffix(".")


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What one check found with one client; `reason` tells why it did not pass."""

    check: str
    client: Kind
    verdict: Verdict
    reason: str
    seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """What all checks found."""

    url: str
    model: str
    outcomes: tuple[Outcome, ...]

    def count(self, verdict: Verdict) -> int:
        """Count the checks with this verdict."""
        return sum(outcome.verdict == verdict for outcome in self.outcomes)

    @property
    def conforms(self) -> bool:
        """Whether something passed and nothing failed."""
        return self.count("failed") == 0 < self.count("passed")
