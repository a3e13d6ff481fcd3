"""What the readings of the parts of one project share: how far it was read, and what was found."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

from flowbed.records import Entry, Problem
from flowbed.records.values import listing
from flowbed.sources.gitlab.api import escaped
from flowbed.sources.gitlab.kinds import NAMES
from flowbed.sources.gitlab.rendering import document

if TYPE_CHECKING:
    from collections.abc import Mapping

    from flowbed.errors import Rejected
    from flowbed.records import Document
    from flowbed.sources.apis.following import Following
    from flowbed.sources.gitlab.api import GitLabApi, Withheld
    from flowbed.sources.gitlab.position import Position
    from flowbed.sources.gitlab.rendering import Rendering


@dataclass(kw_only=True)
class Reading:
    """One fetch of the project at `path`, at the time `now`; `location` is how people know it.

    `project` is what GitLab says of it, empty before it was asked. `withheld` says of which kinds GitLab shows nothing.
    """

    api: GitLabApi
    location: str
    path: str
    rendering: Rendering
    found: Following[Position]
    now: int
    project: dict[str, Any] = field(default_factory=dict)
    withheld: dict[str, Withheld] = field(default_factory=dict)

    @property
    def position(self) -> Position:
        """Return how far the project was read."""
        return self.found.positions

    async def open(self) -> None:
        """Ask for the project, by its number where that is known: its path may have changed.

        Raises:
            Withheld: GitLab does not show it.
        """
        self.project = await self.api.project(str(self.position.number or escaped(self.path)))
        self.position.number = self.project["id"]

    def answered(self, name: str, row: Mapping[str, Any], notes: list[Any] | None) -> None:
        """Keep what GitLab answered, and add its document.

        Raises:
            Rejected: it is malformed.
        """
        whole = {**row, "project": self.project["path_with_namespace"]}
        self.found.keep(lambda raw: raw.put(name, [whole, notes]))
        self.add(name, whole, notes)

    def add(self, name: str, row: Mapping[str, Any], notes: list[Any] | None) -> None:
        """Add the document of an answer.

        Raises:
            Rejected: the answer is malformed.
        """
        self.found.seen.add(name)
        made = document(name, row, self.rendering, notes)
        self.found.add(Entry(document=name, etag=made.hash[:32], read=partial(_held, made)), len(made.text))

    def removed(self, name: str) -> None:
        """Note that a document is gone."""
        self.found.gone.append(name)
        self.found.keep(lambda raw: raw.remove(name))

    def malformed(self, subject: str, reason: str, *, document: str = "", kind: str = "") -> None:
        """Report a record that is none, by its document, or else by its kind."""
        # Skipped, since the next fetch would find the same: what changed after it has to be reached.
        if not document:
            self.found.trouble = True
            self.found.troubled.add(kind)
        self.found.problems.append(Problem(subject=subject, reason=reason, skipped=True, document=document))

    def kept(self, subject: str, error: Rejected) -> None:
        """Report what GitLab does not show."""
        self.found.trouble = True
        reason = f"{error}; what is indexed of it is kept, and the next run tries again"
        self.found.problems.append(Problem(subject=subject, reason=reason, skipped=True))

    def report_withheld(self) -> None:
        """Report the kinds of which GitLab shows nothing."""
        if self.withheld:
            kinds = listing([NAMES[kind] for kind in self.withheld], none="")
            self.kept(f"{self.location}: {kinds}", next(iter(self.withheld.values())))
            self.found.troubled.update(self.withheld)


def field_of(row: Any, name: str) -> Any:  # any JSON value
    """Return a field of a record, None where it has none or is none."""
    return row.get(name) if isinstance(row, dict) else None


def _held(made: Document) -> Document:
    return made
