"""Finds what is wrong with a project or about to go wrong, each with the command that fixes it.

It writes nothing but a probe. To add a check, write a function with `@check(name)` in one of the modules imported here.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

# Imported so that they register their checks, in the order in which these run.
from flowbed.maintenance.doctor import index, store, submissions, work  # noqa: F401
from flowbed.maintenance.doctor.findings import Diagnosis, DoctorContext, Finding, examine

if TYPE_CHECKING:
    from pathlib import Path

    from flowbed.errors import Misconfigured

__all__ = ["Diagnosis", "DoctorContext", "Finding", "broken_ledger", "examine", "wrong_ledger"]


def wrong_ledger(error: Misconfigured) -> Diagnosis:
    """Report a store that does not belong to its ledger; nothing else can be checked then."""
    return _only("tie", "flowbed.json", str(error), "flowbed verify --repair; flowbed run")


def broken_ledger(name: str, file: Path, error: Misconfigured) -> Diagnosis:
    """Report a ledger's file that cannot be opened, and how to go on without it."""
    return _only(
        "ledger",
        name,
        f"{error}; without it, a new ledger takes over the store, and no vector is paid for again",
        f"mv -f '{file}' '{file}.damaged'; rm -f '{file}-wal' '{file}-shm'; flowbed verify --repair; flowbed run",
    )


def _only(check: str, subject: str, what: str, fix: str) -> Diagnosis:
    finding = Finding(check=check, severity="error", subject=subject, what=what, fix=fix)
    return Diagnosis(findings=(finding,), checks=1)
