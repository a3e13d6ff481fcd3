"""Adding sources a second time, listing them, removing them, and commands below the project's folder."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.cli.conftest import Called

    Call = Callable[..., Called]


@pytest.fixture
def docs(project: Path) -> Path:
    """A folder of two texts, below the project."""
    folder = project / "docs"
    folder.mkdir()
    (folder / "a.md").write_text("We rotate the keys each month.\n")
    (folder / "b.txt").write_text("Tea is served at four.\n")
    return folder


@pytest.mark.usefixtures("docs")
def test_add_same_name_again_keeps_options_and_says_what_changed(flowbed: Call, project: Path) -> None:
    assert "added notes" in flowbed("add", "notes", "files", "docs", "--option", "include=*.md").out
    again = flowbed("add", "notes", "files", "docs", "--option", "title=none")
    assert "changed notes, which was there" in again.out
    assert "include=*.md, title=none" in again.out
    assert 'include = "*.md"' in (project / "flowbed.toml").read_text()
    assert flowbed("add", "notes", "files", "docs", "--json").json["changed"] is True


@pytest.mark.usefixtures("docs")
def test_add_same_name_again_keeps_the_comments_in_its_table(flowbed: Call, project: Path) -> None:
    before = (
        '# all of them\n[sources.notes]\n# mine\nkind = "files"\nlocation = "docs" # here\n\n'
        '[sources.notes.options]\ninclude = "*.md" # no others\n\n[serve]\nconcurrency = 5\n'
    )
    (project / "flowbed.toml").write_text(before)
    flowbed("add", "notes", "files", "docs", "--option", "title=name")
    after = (project / "flowbed.toml").read_text()
    assert after.replace('title = "name"\n', "").replace("\n\n", "\n") == before.replace("\n\n", "\n")
    assert flowbed("add", "notes", "files", "docs", "--collection", "all").status == 0
    assert (
        'collection = "all"' in (project / "flowbed.toml").read_text().partition("[sources.notes.options]")[0]
    )


def test_add_same_name_of_another_kind_says_which_options_went(flowbed: Call, docs: Path) -> None:
    flowbed("add", "notes", "files", "docs", "--option", "include=*.md")
    (docs / "rows.jsonl").write_text("")
    again = flowbed("add", "notes", "jsonl", "docs/rows.jsonl")
    assert "dropped the options of files: include" in again.out


@pytest.mark.usefixtures("docs")
def test_add_without_a_project_says_that_it_creates_one(
    flowbed: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "elsewhere" / "texts").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert "created a project: " in flowbed("add", "notes", "files", "texts").out


def test_commands_in_a_subfolder_use_the_project_above(
    flowbed: Call, project: Path, docs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (docs / "deep").mkdir()
    (docs / "deep" / "c.txt").write_text("Coffee at ten.\n")
    flowbed("init")
    monkeypatch.chdir(docs)
    flowbed("add", "deep", "files", "deep")
    assert 'location = "docs/deep"' in (project / "flowbed.toml").read_text()
    assert flowbed("run", "--json").json["embedded"] == 1
    assert not (docs / ".flowbed").exists()
    assert not (docs / "flowbed.toml").exists()


def test_commands_outside_any_project_say_so(
    flowbed: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    called = flowbed("status")
    assert called.status == 2
    assert "neither it nor a folder above it has a flowbed.toml; `flowbed init` creates one" in called.err


@pytest.mark.usefixtures("docs")
def test_sources_list_and_remove_tell_what_is_indexed(flowbed: Call) -> None:
    flowbed("init")
    assert "there are no sources" in flowbed("sources", "list").out
    flowbed("add", "notes", "files", "docs", "--option", "include=*.md")
    assert "notes  files: docs  not fetched yet" in flowbed("sources", "list").out
    flowbed("run")
    assert "notes  files: docs  1 document\n" in flowbed("sources", "list").out
    (row,) = flowbed("sources", "list", "--json").json["sources"]
    assert (row["kind"], row["documents"], row["configured"]) == ("files", 1, True)
    removed = flowbed("sources", "remove", "notes")
    assert "removed notes from flowbed.toml" in removed.out
    assert "searches still find 1 document of it; `flowbed run notes --allow-deletes`" in removed.out
    assert "notes  in no setting  1 document" in flowbed("sources", "list").out
    assert flowbed("run", "notes", "--allow-deletes", "--json").json["deleted"] == 1
    assert "there are no sources" in flowbed("sources", "list").out


@pytest.mark.usefixtures("docs")
def test_sources_remove_unknown_name_suggests_the_one_like_it(flowbed: Call) -> None:
    flowbed("add", "notes", "files", "docs")
    called = flowbed("sources", "remove", "note")
    assert called.status == 2
    assert "no source is called 'note'" in called.err
    assert "(did you mean notes?)" in called.err


@pytest.mark.usefixtures("docs")
def test_add_misspelt_option_suggests_the_one_like_it(flowbed: Call) -> None:
    called = flowbed("add", "notes", "files", "docs", "--option", "inclde=*.md")
    assert called.status == 2
    assert "has no option 'inclde' (did you mean include?)" in called.err
