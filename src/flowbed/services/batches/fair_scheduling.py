"""Whose job is next: places go round the owners of jobs, so that nobody's job waits for all of another's."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from flowbed.ledger import JobRow


def following(waiting: Sequence[JobRow], running: Mapping[str, int]) -> JobRow:
    """Choose from jobs that wait, oldest first: one of the owner of whom the fewest are running."""
    return min(waiting, key=lambda row: running.get(row.owner, 0))


def giving_way(waiting: Sequence[JobRow], staying: Mapping[str, str], *, places: int) -> list[str]:
    """Name the jobs that are to give their places to jobs that wait, so that no owner has two more than another.

    `staying` are the owners of the jobs that run, in the order in which they were begun, without those that give way
    already; of an owner's jobs the last begun goes first, since it has come least far.
    """
    left = list(waiting)
    running = Counter(staying.values())
    free = places - len(staying)
    named: list[str] = []
    while left and running:
        row = following(left, running)
        left.remove(row)
        if free > 0:
            free -= 1
        else:
            most, count = running.most_common(1)[0]
            if count - running[row.owner] < 2:  # noqa: PLR2004 - with one more, the two would only change places
                break
            named.append(
                next(job for job in reversed(list(staying)) if staying[job] == most and job not in named)
            )
            running[most] -= 1
        running[row.owner] += 1
    return named
