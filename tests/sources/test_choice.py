"""Which channels or projects the options choose, and what a cursor says of that."""

from __future__ import annotations

import pytest

from flowbed.errors import Misconfigured
from flowbed.sources.apis import cursors
from flowbed.sources.apis.choice import Choice, chosen
from flowbed.sources.apis.cursors import Heading
from flowbed.sources.discord import positions as discord
from flowbed.sources.slack import positions as slack

SHOWN = [("C1", "ops"), ("C2", "operations"), ("C3", "ops")]


def choose(*wanted: str, **before: str) -> Choice:
    def unknown(name: str, suggestion: str) -> Misconfigured:
        return Misconfigured(f"no {name}{suggestion}")

    return chosen(wanted, SHOWN, before, option="the option channels", unknown=unknown)


def test_chosen_name_or_id_takes_all_that_have_it() -> None:
    assert choose("ops", "C2", "C1") == Choice(shown=("C1", "C3", "C2"))


def test_chosen_place_with_another_name_now_is_read_and_said() -> None:
    choice = choose("development", C2="development")
    assert (choice.shown, choice.lost) == (("C2",), ())
    (problem,) = choice.problems
    assert f"{problem.subject} {problem.reason}" == (
        "development is called operations now, and is read: write that in the option channels"
    )


def test_chosen_place_that_is_not_shown_any_more_is_lost_and_said() -> None:
    choice = choose("ops", "secret", C9="secret", C8="")
    assert (choice.shown, choice.lost, choice.all) == (("C1", "C3"), ("C9",), ("C1", "C3", "C9"))
    (problem,) = choice.problems
    assert (problem.folder, problem.skipped) == ("C9/", True)
    assert problem.reason.endswith("kept until you take it out of the option channels")


def test_chosen_name_that_was_never_there_is_refused() -> None:
    with pytest.raises(Misconfigured, match=r"no opps \(did you mean ops\?\)"):
        choose("opps", C9="secret", C8="")


@pytest.mark.parametrize(
    "heading",
    [
        Heading(origin="0a", choice=""),
        Heading(origin="0a", choice="1b", proving=True),
        Heading(origin="0a", unproved=frozenset({"C1", "C2"})),
    ],
)
def test_cursor_keeps_its_heading(heading: Heading) -> None:
    cursor = heading.before(cursors.written({"C1": "=:+-"}))
    assert cursors.heading(cursor) == heading
    assert cursors.read(cursor) == {"C1": "=:+-"}


@pytest.mark.parametrize(
    ("cursor", "heading"),
    [
        ('{"C1": 1}', Heading()),
        ('+{"C1": 1}', Heading(proving=True)),
        ('-C1,C2-{"C1": 1}', Heading(unproved=frozenset({"C1", "C2"}))),
    ],
)
def test_cursor_of_an_earlier_version_is_read(cursor: str, heading: Heading) -> None:
    """It names no origin, and lost places are not taken for ones that the options leave out."""
    assert cursors.heading(cursor) == heading
    assert cursors.read(cursor) == {"C1": 1}


def test_positions_of_an_earlier_version_have_no_names() -> None:
    of_slack = slack.read('{"C1": [0, 5, null, true, 1, "3", {"1.2": ["1.3", 1, 5, 7]}, null, 0]}')
    assert of_slack == {
        "C1": slack.Position(filled=0, listed=5, whole=True, days={1, 2}, threads={"1.2": ("1.3", 1, 5, 7)})
    }
    of_discord = discord.read('{"4": [0, 5, null, true, 1, 2, 1, "3", {"6": [1, 5, 7]}]}')
    assert of_discord == {
        "4": discord.Position(
            filled=0,
            listed=5,
            whole=True,
            archived=1,
            threads_listed=2,
            days={1, 2},
            threads={"6": (1, 5, 7)},
        )
    }
    of_discord["4"].name = "ops"
    assert discord.read(discord.written(of_discord)) == of_discord
