"""Finds what is wrong with a project or about to go wrong, each with the command that fixes it.

It writes nothing but a probe. To add a check, write a function with `@check(name)` in one of the modules imported here.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

# Imported so that they register their checks, in the order in which these run.
from flowbed.maintenance.doctor import index, store, submissions, work  # noqa: F401
from flowbed.maintenance.doctor.findings import Diagnosis, DoctorContext, Finding, examine

if TYPE_CHECKING:
    from flowbed.errors import Damaged, Newer
    from flowbed.maintenance.store_binding import Unbound

__all__ = [
    "Diagnosis",
    "DoctorContext",
    "Finding",
    "broken_ledger",
    "examine",
    "made_by_newer_flowbed",
    "wrong_ledger",
]

UPGRADE = "pip install --upgrade flowbed"


def wrong_ledger(error: Unbound) -> Diagnosis:
    """Report a store that does not belong to its ledger; nothing else can be checked then."""
    return _only("tie", "flowbed.json", str(error), error.fix)


def broken_ledger(name: str, error: Damaged) -> Diagnosis:
    """Report a ledger's file that is damaged, and how to save what can be read of it."""
    what = f"{error}; its files are kept beside a new one, and no vector is paid for again"
    return _only("ledger", name, what, "flowbed verify --repair; flowbed run")


def made_by_newer_flowbed(subject: str, error: Newer) -> Diagnosis:
    """Report a healthy ledger or store that only a newer Flowbed can read."""
    return _only("version", subject, str(error), UPGRADE)


def _only(check: str, subject: str, what: str, fix: str) -> Diagnosis:
    finding = Finding(check=check, severity="error", subject=subject, what=what, fix=fix)
    return Diagnosis(findings=(finding,), checks=1)
