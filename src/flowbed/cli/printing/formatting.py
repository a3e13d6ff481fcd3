"""Formats counts, times and problems in words."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING

from flowbed.cli.printing.output import say
from flowbed.errors import Rejected
from flowbed.records.values import count

if TYPE_CHECKING:
    from collections.abc import Sequence

    from flowbed.records import Problem

SHOWN = 20  # problems of a kind to list; the others are counted
FEW = 3  # problems of one reason up to which each has its own line
UNITS = {"m": 60.0, "h": 3_600.0, "d": 86_400.0}


def read_span(text: str | None) -> float | None:
    """Parse a duration such as 90m, 6h or 2d; return seconds.

    Raises:
        Rejected: it is not a duration.
    """
    if text is None:
        return None
    try:
        seconds = float(text[:-1]) * UNITS[text[-1]]
    except (ValueError, KeyError, IndexError):
        seconds = 0.0
    if not 0 < seconds < float("inf"):
        raise Rejected(f"--deadline takes a time from now such as 90m, 6h or 2d, not {text!r}")
    return seconds


def problems(title: str, found: Sequence[Problem]) -> None:
    """Show problems of a kind; many of one reason together."""
    if found:
        say(f"  {title}: {len(found):,}")
    reasons: dict[str, list[str]] = {}
    for problem in found:
        reasons.setdefault(problem.reason, []).append(problem.subject)
    lines: list[tuple[int, str]] = []
    for reason, subjects in reasons.items():
        if len(subjects) > FEW:
            some = ", ".join(subjects[:FEW])
            lines.append((len(subjects), f"{some} and {count(len(subjects) - FEW, 'other')}: {reason}"))
        else:
            lines += [(1, f"{subject}: {reason}") for subject in subjects]
    for _, line in lines[:SHOWN]:
        say(f"    {line}")
    if left := sum(number for number, _ in lines[SHOWN:]):
        say(f"    and {left:,} more; `flowbed dead-letters list` has those that failed")


def span(seconds: float) -> str:
    """Format a duration."""
    return f"{seconds:,.1f} s" if seconds < 120 else f"{seconds / 60:,.1f} min"  # noqa: PLR2004 - two minutes


def at(microseconds: int) -> str:
    """Format a point in time, in UTC."""
    return datetime.fromtimestamp(microseconds / 1e6, UTC).strftime("%Y-%m-%d %H:%M:%S")
