"""The records of a conformance run."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, get_args

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

    from flowbed.testing.conformance.client import Client

Kind = Literal["sync", "async"]
Verdict = Literal["passed", "failed", "skipped"]
Group = Literal["embeddings", "files", "batches", "vector stores"]
KINDS: tuple[Kind, ...] = get_args(Kind)
GROUPS: tuple[Group, ...] = get_args(Group)


class Failed(Exception):  # noqa: N818 - it is a verdict, not an error of the examination
    """The server violates the contract; the message says how."""


class Skipped(Exception):  # noqa: N818
    """The server lacks what the check needs; the message says what."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """The server to check: `url` is the SDK's base address.

    An empty `model` means the first that the server lists, preferably one whose name says it is for embeddings.
    `limited_key` is a key with a limit of about a hundred requests a minute or less. `timeout` is in seconds, per
    request, and `batch_timeout` per batch from its creation to its end.
    """

    url: str
    key: str = ""
    model: str = ""
    limited_key: str = ""
    timeout: float = 60.0
    batch_timeout: float = 600.0


@dataclass(frozen=True, slots=True)
class Check:
    """One sentence of the contract, and the check whether a server keeps it."""

    run: Callable[[Client], Awaitable[None]]
    group: Group = "embeddings"

    @property
    def sentence(self) -> str:
        """The sentence that is checked."""
        return (self.run.__doc__ or "").strip().partition("\n")[0].removesuffix(".")


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """The result of one check with one client; `reason` says why it did not pass."""

    check: str
    group: Group
    client: Kind
    verdict: Verdict
    reason: str
    seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """The results of all checks; `absent` says for each group that is not offered how the server refused it."""

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
