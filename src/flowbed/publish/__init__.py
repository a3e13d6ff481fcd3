"""Publications: copies of a version of a collection in another form, each kept in step by what changed."""

from __future__ import annotations

from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING, Protocol, runtime_checkable

from flowbed.errors import Misconfigured
from flowbed.records.values import suggestion

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from flowbed.index.active_space import Live
    from flowbed.index.datasets import Datasets
    from flowbed.records import Problem
    from flowbed.storage import Store


@dataclass(frozen=True, kw_only=True)
class PublishContext:
    """What a publication works with.

    `name` is the publication's, `scratch` a local folder that only publications of this project use. `clock` returns
    microseconds since 1970. `worker` names this piece of work; `dead` returns whether a worker is known to have ended.
    """

    name: str
    store: Store
    datasets: Datasets
    scratch: Path
    clock: Callable[[], int]
    worker: str
    dead: Callable[[str], bool]


@dataclass(frozen=True, kw_only=True)
class Published:
    """What a publication, by its name, did with one collection, and where the result is (`place`).

    `version` is the version of the index that the publication now holds, `rows` the number of its rows. `upserts` rows
    were written and `deletes` removed; `rebuilt` says why everything was written, an empty text if only changes were.
    `uploaded` is in bytes. `fixed` counts the rows that had drifted, found by `reconcile`. With `already`, the
    publication held this version, or a newer one.
    """

    publication: str
    collection: str
    place: str
    version: int
    rows: int
    upserts: int = 0
    deletes: int = 0
    rebuilt: str = ""
    uploaded: int = 0
    fixed: int = 0
    already: bool = False


@dataclass(frozen=True, kw_only=True)
class PublishReport:
    """What was published, and what could not be, with the reason."""

    published: tuple[Published, ...] = ()
    failures: tuple[Problem, ...] = ()


class Publication(Protocol):
    """A form in which versions are published. Both methods are safe to repeat, and to interrupt anywhere.

    Readers see what was published before until all of the new version can be read. An older version never replaces a
    newer one.
    """

    async def publish(self, live: Live, version: int) -> Published:
        """Publish a version of the index.

        Raises:
            Conflict: another process publishes the same collection at the same time.
            Misconfigured: a setting has to change; the message names it.
        """
        ...

    async def reconcile(self, live: Live, version: int) -> Published:
        """Compare what is published with a version of the index, row by row or by checksum, and fix what differs."""
        ...

    async def aclose(self) -> None:
        """Close connections."""
        ...


@runtime_checkable
class Renewable(Protocol):
    """A publication whose new versions could keep bytes of deleted rows, unless they are made from nothing."""

    async def renew(self, live: Live, version: int, *, reason: str) -> Published:
        """Publish a version of the index from nothing, for a reason."""
        ...


@runtime_checkable
class Remote(Protocol):
    """A publication on a server, which can be asked what it holds."""

    async def fault(self, live: Live, version: int, rows: int) -> str:
        """Say how the server differs from a version with so many rows; an empty text if it does not. Changes nothing.

        Raises:
            Transient: the server does not answer.
        """
        ...


# Loaded by name, so that a kind loads only what it needs.
KINDS = {
    "chroma": "flowbed.publish.chroma.publication:open_chroma",
    "chroma-server": "flowbed.publish.chroma_server.publication:open_chroma_server",
    "parquet": "flowbed.publish.parquet:open_parquet",
}
REMOTE = frozenset({"chroma-server"})  # those that are `Remote`


def open_publication(kind: str, context: PublishContext, options: Mapping[str, str]) -> Publication:
    """Open a publication of a kind, without contacting a server yet.

    Raises:
        Misconfigured: the kind or an option is unknown.
    """
    if fault := kind_fault(context.name, kind):
        raise Misconfigured(fault)
    module, _, attribute = KINDS[kind].partition(":")
    opener: Callable[[PublishContext, Mapping[str, str]], Publication] = getattr(
        import_module(module), attribute
    )
    return opener(context, options)


def kind_fault(name: str, kind: str) -> str:
    """Say what is wrong with the kind of the publication with this name; an empty text if it is known."""
    if kind in KINDS:
        return ""
    return (
        f"publish.{name}: there is no kind {kind!r}{suggestion(kind, KINDS)}; the kinds are:"
        f" {', '.join(sorted(KINDS))}"
    )


def checked_options(context: PublishContext, options: Mapping[str, str], known: tuple[str, ...]) -> None:
    """Refuse options that a kind does not have.

    Raises:
        Misconfigured: an option is unknown.
    """
    if unknown := sorted(set(options) - set(known)):
        raise Misconfigured(
            f"publish.{context.name}: there is no option {', '.join(unknown)};"
            f" the options of this kind are: {', '.join(known) or 'none'}"
        )
