"""Fair scheduling of jobs between owners, so that nobody's job waits for all jobs of someone else."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from flowbed.ledger import JobRow


def next_job(waiting: Sequence[JobRow], running: Mapping[str, int]) -> JobRow:
    """Choose the next job from `waiting`, oldest first: one of the owner with the fewest running jobs."""
    return min(waiting, key=lambda row: running.get(row.owner, 0))


def jobs_to_yield(waiting: Sequence[JobRow], staying: Mapping[str, str], *, places: int) -> list[str]:
    """Name the running jobs that yield to waiting ones, so that no owner has two places more than another.

    `staying` maps running jobs to their owners, oldest first, without those that already yield; of an owner's jobs, the
    newest yields first because it has made the least progress.
    """
    left = list(waiting)
    running = Counter(staying.values())
    free = places - len(staying)
    named: list[str] = []
    while left and running:
        row = next_job(left, running)
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
