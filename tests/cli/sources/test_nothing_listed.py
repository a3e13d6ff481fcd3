"""Sources that list no documents: plan, run and status say so, and why."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    Call = Callable[..., Any]


def named(text: str) -> str:
    return f"warning: docs lists no documents: {text}"


@pytest.mark.parametrize(
    ("files", "options", "why"),
    [
        ({}, [], "there are no files in it"),
        ({"below/.git/x": "x"}, [], "1 entry in it, hidden or of a kind that is never read"),
        ({"a.md": "a"}, ["include=*.mdx"], "0 of 1 file fit `include` (*.mdx)"),
        ({"a.md": "a", "b/c.md": "c"}, ["include=*.mdx,*.rst"], "0 of 2 files fit `include` (*.mdx, *.rst)"),
        ({"a.md": "a", "b/c.md": "c"}, ["exclude=*"], "`exclude` leaves out 2 entries"),
        ({".flowbedignore": "*.md\n", "a.md": "a"}, [], ".flowbedignore leaves out 1 entry"),
        (
            {".flowbedignore": "a.md\n", "a.md": "a", "b.md": "b", "c.md": "c"},
            ["include=*.txt", "exclude=b.md"],
            "0 of 1 file fit `include` (*.txt); `exclude` leaves out 1 entry; .flowbedignore leaves out 1 entry",
        ),
    ],
)
def test_files_that_list_nothing_are_named_with_the_reason(
    project: Path, flowbed: Call, files: dict[str, str], options: list[str], why: str
) -> None:
    (project / "d").mkdir()
    for name, text in files.items():
        (project / "d" / name).parent.mkdir(parents=True, exist_ok=True)
        (project / "d" / name).write_text(text)
    flowbed("init")
    flowbed("add", "docs", "files", "d", *(part for each in options for part in ("--option", each)))
    check(flowbed, why)


@pytest.mark.parametrize(
    ("kind", "files", "location", "why"),
    [
        ("jsonl", {"d/a.txt": "a"}, "d", "no file in the folder is named *.jsonl or *.ndjson"),
        ("jsonl", {"d/a.jsonl": ""}, "d", "there are no records in a.jsonl"),
        ("jsonl", {"a.jsonl": "\n \n"}, "a.jsonl", "there are no records in a.jsonl"),
        (
            "jsonl",
            {f"d/{name}.jsonl": "" for name in "abcd"},
            "d/*.jsonl",
            "there are no records in a.jsonl, b.jsonl, c.jsonl ...",
        ),
        ("receipts", {"d/a.csv": "a"}, "d", "no file in the folder is named *.jsonl or *.ndjson or *.json"),
        ("receipts", {"a.json": "[]"}, "a.json", "there are no records in a.json"),
    ],
)
def test_records_that_are_none_are_named_with_the_reason(
    project: Path, flowbed: Call, kind: str, files: dict[str, str], location: str, why: str
) -> None:
    for name, text in files.items():
        (project / name).parent.mkdir(exist_ok=True)
        (project / name).write_text(text)
    flowbed("init")
    flowbed("add", "docs", kind, location)
    check(flowbed, why)


def check(flowbed: Call, why: str) -> None:
    """Plan, run and status name the source, each time, and end with status 0."""
    for _ in range(2):
        planned = flowbed("plan")
        assert (planned.status, "in step" in planned.out) == (0, False)
        assert named(why) in planned.out
        assert flowbed("plan", "--json").json["empty"] == {"docs": why}
        ran = flowbed("run")
        assert ran.status == 0
        assert named(why) in ran.out
        assert flowbed("run", "--json").json["empty"] == {"docs": why}
        state = flowbed("status")
        assert "warning: docs lists no documents; `flowbed plan docs` says why" in state.out
        assert "start with `flowbed run`" not in state.out
        assert list(flowbed("status", "--json").json["empty"]) == ["docs"]
    assert "`flowbed run` does it, and names sources that list nothing" in flowbed("search", "x").err


def test_run_of_a_plan_names_the_sources_that_listed_nothing(project: Path, flowbed: Call) -> None:
    for name in ("d", "e"):
        (project / name).mkdir()
    (project / "e" / "a.txt").write_text("a")
    flowbed("init")
    flowbed("add", "docs", "files", "d")
    flowbed("add", "others", "files", "e")
    planned = flowbed("plan", "--json").json
    assert planned["empty"] == {"docs": "there are no files in it"}
    ran = flowbed("run", "--plan", planned["plan_id"], "--json").json
    assert (ran["embedded"], ran["empty"]) == (1, {"docs": "there are no files in it"})
    assert named("there are no files in it") in flowbed("run", "--plan", planned["plan_id"]).out


def test_source_before_its_first_fetch_is_not_named(project: Path, flowbed: Call) -> None:
    (project / "d").mkdir()
    flowbed("init")
    flowbed("add", "docs", "files", "d")
    state = flowbed("status")
    assert "start with `flowbed run`" in state.out
    assert "warning" not in state.out


def test_pattern_that_no_longer_fits_is_named_with_the_deletion(
    notes: Path, project: Path, flowbed: Call
) -> None:
    """Another source that lists something is not named."""
    (project / "more").mkdir()
    (project / "more" / "a.txt").write_text("More.\n")
    flowbed("add", "more", "files", "more")
    assert flowbed("run", "--json").json["empty"] == {}
    flowbed("add", "notes", "files", "notes", "--option", "include=*.mdx")
    ran = flowbed("run", "--json").json
    assert (ran["deleted"], list(ran["empty"])) == (3, ["notes"])
    assert list(flowbed("status", "--json").json["empty"]) == ["notes"]
    (notes / "new.mdx").write_text("New.\n")
    assert flowbed("run", "--json").json["empty"] == {}
    assert flowbed("status", "--json").json["empty"] == {}


def test_source_of_problems_alone_names_those_only(project: Path, flowbed: Call) -> None:
    (project / "d").mkdir()
    (project / "d" / "a.png").write_bytes(bytes(range(256)))
    flowbed("init")
    flowbed("add", "docs", "files", "d")
    ran = flowbed("run", "--json").json
    assert (ran["empty"], [each["subject"] for each in ran["skipped"]]) == ({}, ["a.png"])
