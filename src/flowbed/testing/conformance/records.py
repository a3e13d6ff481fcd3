"""What an examination is made of and what it finds."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, get_args

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

    from flowbed.testing.conformance.client import Client

Kind = Literal["sync", "async"]
Verdict = Literal["passed", "failed", "skipped"]
Group = Literal["embeddings", "files", "batches"]
KINDS: tuple[Kind, ...] = get_args(Kind)
GROUPS: tuple[Group, ...] = get_args(Group)


class Failed(Exception):  # noqa: N818 - it is a verdict, not an error of the examination
    """The server does something else than the contract says; the message tells what."""


class Skipped(Exception):  # noqa: N818
    """The server has nothing that could be examined; the message tells why."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """The server to examine: `url` is what a client of the SDK takes as its base address.

    An empty `model` is the first that the server lists, one for embeddings if their names tell. `limited_key` is a key
    that may ask no more than about a hundred times a minute. `timeout` is in seconds, for each request, and
    `batch_timeout` for each batch from its beginning to its end.
    """

    url: str
    key: str = ""
    model: str = ""
    limited_key: str = ""
    timeout: float = 60.0
    batch_timeout: float = 600.0


@dataclass(frozen=True, slots=True)
class Check:
    """One sentence of the contract, and how to find out whether a server keeps it."""

    run: Callable[[Client], Awaitable[None]]
    group: Group = "embeddings"

    @property
    def sentence(self) -> str:
        """What is checked."""
        return (self.run.__doc__ or "").strip().partition("\n")[0].removesuffix(".")


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What one check found with one client; `reason` tells why it did not pass."""

    check: str
    group: Group
    client: Kind
    verdict: Verdict
    reason: str
    seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """What all checks found; `absent` says of the groups that the server does not offer how it said so."""

    url: str
    model: str
    outcomes: tuple[Outcome, ...]
    absent: Mapping[Group, str] = field(default_factory=dict)

    def count(self, verdict: Verdict) -> int:
        """Count the checks with this verdict."""
        return sum(outcome.verdict == verdict for outcome in self.outcomes)

    @property
    def conforms(self) -> bool:
        """Whether something passed and nothing failed."""
        return self.count("failed") == 0 < self.count("passed")
