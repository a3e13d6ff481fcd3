"""Sources of documents: `fetch(cursor)` lists them page by page."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Protocol, runtime_checkable

from flowbed.errors import Misconfigured
from flowbed.records.values import suggestion

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Mapping
    from pathlib import Path

    from flowbed.records import Linked, Page


class Source(Protocol):
    """Something that lists documents."""

    @property
    def location(self) -> str:
        """Return where the documents come from, for messages."""
        ...

    def fetch(self, cursor: str) -> AsyncIterator[Page]:
        """List documents, starting from `cursor` (empty at first).

        Raises:
            Misconfigured: the location does not exist or cannot be read.
            Transient: the same fetch may succeed later.
        """
        ...


@runtime_checkable
class Looking(Protocol):
    """A source over an API that can say, before anything is fetched, what its token can see."""

    async def look(self) -> tuple[str, ...]:
        """Ask the API once, and return what will be read and what will not, as lines.

        Raises:
            Misconfigured: the API refuses the token or an option.
            Transient: the API cannot be asked now.
        """
        ...


@runtime_checkable
class Linking(Protocol):
    """A source whose documents have addresses at their vendor."""

    def linked(self, link: str, cursor: str) -> Linked | None:
        """Return what a link points to, None where it is none of this source; `cursor` is how far it was read.

        It asks nobody: neither the vendor nor the ledger.
        """
        ...


@runtime_checkable
class Explaining(Protocol):
    """A source that can say why a document is not among those that it lists."""

    def unlisted(self, document: str) -> str | None:
        """Say why no document of this id can be read, "" if one can; None if there is nothing of that name.

        Blocks; it looks at nothing that a listing leaves out.

        Raises:
            Misconfigured: the location does not exist or cannot be read.
        """
        ...


@runtime_checkable
class Local(Protocol):
    """A source whose documents are in files of this machine."""

    def require_place(self) -> None:
        """Check that the location is there and can be listed. Blocks; reads no document.

        Raises:
            Misconfigured: the location does not exist or cannot be read.
        """
        ...


VENDORS = {
    "backlog": "flowbed.sources.backlog:open_backlog",
    "discord": "flowbed.sources.discord:open_discord",
    "files": "flowbed.sources.files:open_files",
    "gitlab": "flowbed.sources.gitlab:open_gitlab",
    "jsonl": "flowbed.sources.jsonl:open_jsonl",
    "receipts": "flowbed.sources.receipts:open_receipts",
    "slack": "flowbed.sources.slack:open_slack",
}


def kinds() -> dict[str, str]:
    """Return every kind of source and its opener; other packages register theirs as entry points `flowbed.sources`."""
    from importlib.metadata import entry_points  # slow to load and to search, and rarely needed

    return {**{point.name: point.value for point in entry_points(group="flowbed.sources")}, **VENDORS}


# Kinds of Flowbed whose opener takes the token or key of an API; one of another package does where it has a `token`.
WITH_TOKEN = frozenset({"backlog", "discord", "gitlab", "receipts", "slack"})


def open_source(
    kind: str,
    location: str,
    *,
    folder: Path,
    options: Mapping[str, object],
    clock: Callable[[], int],
    token: str = "",
) -> Source:
    """Open a source; a relative location is below `folder`. `clock` returns microseconds since 1970.

    `token` is the secret of the API that the source is read from, if any.

    Raises:
        Misconfigured: the kind or an option is unknown.
    """
    known = VENDORS if kind in VENDORS else kinds()
    if kind not in known:
        raise Misconfigured(
            f"unknown kind of source {kind!r}{suggestion(kind, known)}; the kinds are: {', '.join(sorted(known))}"
        )
    module, _, attribute = known[kind].partition(":")
    opener: Callable[..., Source] = getattr(import_module(module), attribute)
    if kind in WITH_TOKEN or (kind not in VENDORS and _takes_token(opener)):
        return opener(location, folder=folder, options=options, clock=clock, token=token)
    return opener(location, folder=folder, options=options, clock=clock)


def _takes_token(opener: Callable[..., Source]) -> bool:
    from inspect import signature  # slow to load, and only needed for kinds of other packages

    return "token" in signature(opener).parameters
