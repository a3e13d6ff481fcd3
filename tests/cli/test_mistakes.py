"""Mistakes of a new user: each is answered with what is wrong and what was probably meant."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from flowbed.sources import VENDORS

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    Call = Callable[..., Any]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["add", "docs", "file", "notes"], "unknown kind of source 'file' (did you mean files?)"),
        (["add", "more", "files", "notes", "--option", "capcity=9"], "(did you mean capacity?)"),
        (["search", "x", "-c", "note"], "no collection is called 'note' (did you mean notes?)"),
        (["versions", "notse"], "(did you mean notes?)"),
        (["rollback", "note", "1"], "(did you mean notes?)"),
        (["verify", "nots"], "(did you mean notes?)"),
        (["gc", "notess"], "(did you mean notes?)"),
        (["compact", "note"], "(did you mean notes?)"),
        (["init", "flowbed.toml"], "flowbed.toml is a file: a project is a folder"),
    ],
)
def test_misspelt_name_is_answered_with_the_one_that_was_meant(
    notes: Path, flowbed: Call, arguments: list[str], said: str
) -> None:
    called = flowbed(*arguments)
    assert called.status == 2
    assert said in called.err


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["run", "--lan", "batch"], "--lane"),
        (["why"], "ID"),
        (["run", "--budget", "much"], "--budget"),
        (["run", "--budget", "-1"], "--budget"),
        (["add", "docs"], "KIND"),
        (["search", "x", "--limit", "many"], "--limit"),
        (["sources", "lst"], "lst"),
        (["nonsense"], "nonsense"),
        (["serve", "--port", "99999"], "--port"),
    ],
)
def test_usage_error_with_json_is_json(project: Path, flowbed: Call, arguments: list[str], said: str) -> None:
    called = flowbed(*arguments, "--json")
    assert called.status == 2
    assert called.json["error"]["kind"] == "UsageError"
    assert said in called.json["error"]["message"]
    assert said in called.err
    assert flowbed(*arguments).out == ""


def test_help_of_add_names_every_kind_of_source(flowbed: Call) -> None:
    shown = flowbed("add", "--help").out
    assert all(name in shown for name in VENDORS)
