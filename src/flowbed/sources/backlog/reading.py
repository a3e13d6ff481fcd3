"""What the readings of issues and of pages of one project share: how far it was read, and what was found."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from flowbed.errors import Rejected
from flowbed.records import Problem
from flowbed.sources.backlog.rendering import moment

if TYPE_CHECKING:
    from collections.abc import Mapping

    from flowbed.sources.backlog.api import BacklogApi, Withheld
    from flowbed.sources.backlog.position import Position

DAY = 86_400  # seconds
# Times have whole seconds: what changed so shortly before it was read (seconds) may have changed once more.
SETTLING = 60
# Pages overlap by so many rows: a row that is deleted meanwhile pulls others over the end of a page.
STEP = 90
# So many issues and documents are asked again in each fetch, those asked longest ago first: a comment, or deleting one,
# may move nothing.
SLICE = 20
# What is reported of malformed records, one by one.
MOST_PROBLEMS = 20


@dataclass(frozen=True)
class Answer:
    """What Backlog answered for a document: its record, its comments (None of a wiki page), and the notation."""

    name: str
    record: dict[str, Any]
    comments: list[Any] | None
    notation: str


@dataclass
class Found:
    """Documents that were read, those that are gone, and what could not be read; `position` is that after them."""

    answers: list[Answer] = field(default_factory=list)
    gone: list[str] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)


@dataclass(kw_only=True)
class Reading:
    """One fetch of a project from `position` on, at the time `now`; `seen` are the documents that it has read.

    `label` is how people know the project. `trouble` says that something could not be read. For estimates: of a
    project that is read for the first time, so many issues are `unread`; so many pages of its wiki are `waiting`.
    """

    api: BacklogApi
    position: Position
    now: int
    label: str
    found: Found = field(default_factory=Found)
    seen: set[str] = field(default_factory=set)
    trouble: bool = False
    unread: int = 0
    waiting: int = 0

    def left(self) -> int:
        """Return how many calls are left at least: the comments of issues, and pages."""
        return max(0, self.unread) + self.waiting

    def taken(self) -> Found:
        """Return what was found since the last call."""
        found, self.found = self.found, Found()
        return found

    def keep(self, name: str, error: Withheld) -> None:
        """Report a document that is not shown any more."""
        problem = Problem(subject=name, reason=f"{error}; what is indexed of it is kept", skipped=True)
        self.found.problems.append(replace(problem, document=name))

    def malformed(self, subject: str, error: Rejected) -> None:
        """Report a record that is none."""
        # Skipped, since the next fetch would find the same: what changed after it has to be reached.
        self.trouble = True
        if len(self.found.problems) < MOST_PROBLEMS:
            self.found.problems.append(Problem(subject=subject, reason=str(error), skipped=True))

    def moment(self, row: Mapping[str, Any]) -> int:
        """Return when a row changed last, 0 if it does not say."""
        try:
            return moment(row)
        except Rejected:
            return 0


def id_of(row: Mapping[str, Any]) -> int:
    """Return the id of a row, 0 if it has none."""
    found = row.get("id")
    return found if isinstance(found, int) else 0
