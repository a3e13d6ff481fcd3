"""What the doctor reports, and the table of its checks."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

from flowbed.errors import Damaged, Error
from flowbed.lanes.contexts import RunContext

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

Severity = Literal["error", "warning", "note"]

NAMED = 3  # subjects that a sentence names; the others are counted


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One problem: what it is about, what it means, and the command that fixes it.

    An `error` spoils searches or stops runs now, a `warning` will, and a `note` reminds of something done on purpose.
    """

    check: str = ""
    severity: Severity
    subject: str
    what: str
    fix: str


@dataclass(frozen=True, kw_only=True)
class Diagnosis:
    """The findings of a number of checks."""

    findings: tuple[Finding, ...]
    checks: int


@dataclass(frozen=True, kw_only=True)
class ConfiguredPlace:
    """A configured source: the collections that it fills, and why nothing can be read of it; empty where it can.

    `misset` is what is wrong with its settings, `missing` with the place that they name. Sources behind an API are not
    asked.
    """

    name: str
    kind: str
    collections: tuple[str, ...] = ()
    misset: str = ""
    missing: str = ""


@dataclass(frozen=True, kw_only=True)
class DoctorContext(RunContext):
    """A context with what a project depends on outside its store and ledger.

    `store_path` is the path of a store in a folder, otherwise its URL; `private_paths` are what only
    the owner may read. `free_bytes` returns the free space of the disk,
    `cache_fault` why the vector cache cannot be read, and `ledger_fault` what is damaged in the ledger's file; an empty
    text where nothing is. `missing_model` returns what is said about a local model that is not installed, and the
    command that installs it. `configured_places` looks where the configured sources read; it blocks.
    """

    store_path: str
    private_paths: Sequence[Path]
    free_bytes: Callable[[], int]
    cache_fault: Callable[[], str]
    ledger_fault: Callable[[], str]
    missing_model: Callable[[], tuple[str, str] | None]
    configured_places: Callable[[], Sequence[ConfiguredPlace]]


# A check takes the narrowest context that it needs, and yields what it finds.
Check = Callable[[DoctorContext], AsyncIterator[Finding]]
CHECKS: dict[str, Check] = {}


def check(name: str) -> Callable[[Check], Check]:
    """Register a check under a name."""

    def register(function: Check) -> Check:
        CHECKS[name] = function
        return function

    return register


async def examine(context: DoctorContext) -> Diagnosis:
    """Run every check; one that fails is a finding itself and does not stop the others."""
    findings: list[Finding] = []
    stumbled: list[Finding] = []
    for name, function in CHECKS.items():
        try:
            findings += [replace(found, check=name) async for found in function(context)]
        except Damaged as error:
            # Where one check names the damage, the others that stumble over it have nothing to add.
            fix = "flowbed verify --repair --allow-deletes; flowbed run"
            stumbled.append(Finding(check=name, severity="error", subject=name, what=str(error), fix=fix))
        except Error as error:
            what = f"it could not be checked: {error}"
            findings.append(
                Finding(check=name, severity="warning", subject=name, what=what, fix="flowbed doctor")
            )
    if not any(each.severity == "error" for each in findings):
        findings += stumbled[:1]
    return Diagnosis(findings=tuple(findings), checks=len(CHECKS))


def named(subjects: Sequence[str]) -> str:
    """Name the first subjects, and count the others."""
    rest = len(subjects) - NAMED
    return ", ".join(subjects[:NAMED]) + (f" and {rest:,} more" if rest > 0 else "")
