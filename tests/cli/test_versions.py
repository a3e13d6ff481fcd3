"""Old versions from the command line: listed, tagged, searched, restored and dropped."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.cli.conftest import Called

    Call = Callable[..., Called]


# Lance refuses most of these, and takes letters that are not ASCII, but cannot list tags with them. A rollback gives
# the last one to its target, and takes it away again.
UNUSABLE_TAGS = (
    "not stable",
    "a/b",
    "..",
    ".hidden",
    "ends.",
    "a..b",
    "x.lock",
    "s" * 300,
    "ger\u00fcst",
    "rollback-1",
)


def texts(flowbed: Call, *more: str) -> set[str]:
    hits = flowbed("search", "anything", "-c", "notes", "--json", *more).json["hits"]
    return {hit["document"].split()[0] for hit in hits}


def edited(notes: Path, flowbed: Call) -> str:
    """Edit a note and run; return the version before."""
    before = flowbed("status", "--json").json["collections"]["notes"]["version"]
    (notes / "tea.txt").write_text("Coffee is served at four.\n")
    assert flowbed("run", "--json").status == 0
    return str(before)


def test_rollback_restores_the_old_text_and_release_undoes_it(notes: Path, flowbed: Call) -> None:
    """A run in between changes nothing."""
    before = edited(notes, flowbed)
    assert "Coffee" in texts(flowbed)
    done = flowbed("rollback", "notes", before)
    assert done.status == 0
    assert "1 run with 1 chunk reverted" in done.out
    assert "--release" in done.out
    assert texts(flowbed) == {"#", "Cats", "Tea"}
    assert flowbed("status", "--json").json["chunks"] == {"SUCCESS": 2, "REVERTED": 1}
    assert flowbed("run", "--json").json["embedded"] == 0
    assert texts(flowbed) == {"#", "Cats", "Tea"}
    assert flowbed("rollback", "notes", "--release", "--json").json["runs"] == 1
    assert texts(flowbed) == {"#", "Cats", "Coffee"}
    assert "nothing to release" in flowbed("rollback", "notes", "--release").out


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("rollback", "notes"), "--release"),
        (("rollback", "notes", "2", "--release"), "--release"),
        (("rollback", "notes", "99"), "no version 99; it keeps 1-"),
        (("rollback", "other", "1"), "there are: notes"),
        (("versions", "notes", "--tag", "stable"), "NAME=VERSION"),
        (("versions", "--tag", "stable=1"), "need a collection"),
        (("versions", "notes", "--untag", "stable"), "no version of notes is called 'stable'"),
        (("versions", "notes", "--untag", "not stable"), "no version of notes is called 'not stable'"),
        (("versions", "notes", "--untag", "s" * 300), "no version of notes is called"),
        *((("versions", "notes", "--tag", f"{name}=1"), "cannot be tagged") for name in UNUSABLE_TAGS),
        (("search", "tea", "-c", "notes", "--at", "99"), "no version 99; it keeps 1-"),
        (("search", "tea", "-c", "notes", "--at", "9" * 30), "no version 9999"),
    ],
)
def test_versions_invalid_arguments_exit_2(
    notes: Path, flowbed: Call, arguments: tuple[str, ...], says: str
) -> None:
    assert notes.exists()
    called = flowbed(*arguments)
    assert called.status == 2
    assert says in called.err
    assert "verify --repair" not in called.err


def test_versions_tagged_one_survives_compact_now(notes: Path, flowbed: Call) -> None:
    """It can still be searched."""
    before = edited(notes, flowbed)
    assert flowbed("versions", "notes", "--tag", f"stable={before}").status == 0
    assert flowbed("compact", "notes", "--now").status == 0
    kept = flowbed("versions", "notes", "--json").json["versions"]["notes"]
    assert {str(each["version"]): each["tags"] for each in kept}[before] == ["stable"]
    assert len(kept) == 2
    assert texts(flowbed, "--at", before) == {"#", "Cats", "Tea"}
    assert flowbed("versions", "notes", "--untag", "stable").status == 0
    assert flowbed("compact", "notes", "--now").status == 0
    assert flowbed("search", "tea", "-c", "notes", "--at", before).status == 2
    assert texts(flowbed) == {"#", "Cats", "Coffee"}
