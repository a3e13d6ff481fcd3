"""What commands say of the same rows."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.cli.conftest import Called

    Call = Callable[..., Called]


def test_rows_after_a_deletion_are_the_same_everywhere(notes: Path, flowbed: Call) -> None:
    """A deleted row stays in the index as a tombstone, which nobody has to know of."""
    (notes / "tea.txt").unlink()
    assert flowbed("run").status == 0
    assert flowbed("status", "--json").json["collections"]["notes"]["rows"] == 2
    kept = flowbed("versions", "--json").json["versions"]["notes"]
    assert [each["rows"] for each in kept][:2] == [2, 3]
    verified = flowbed("verify", "--json").json["collections"]["notes"]
    assert (verified["rows"], verified["chunks"]) == (2, 2)
    assert "notes: 2 rows against 2 chunks" in flowbed("verify").out


def test_collection_without_rows_or_work_is_not_listed(notes: Path, flowbed: Call) -> None:
    """Until a run adds to it again."""
    settings = notes.parent / "flowbed.toml"
    sources = settings.read_text()
    settings.write_text(sources.partition("[sources")[0])
    assert flowbed("run", "notes", "--allow-deletes").status == 0
    assert flowbed("status", "--json").json["collections"] == {}
    assert "nothing is indexed yet" in flowbed("status").out
    assert flowbed("doctor", "--json").json["findings"] == []
    settings.write_text(sources)
    assert flowbed("run").status == 0
    assert flowbed("status", "--json").json["collections"]["notes"]["rows"] == 3


def test_why_document_with_its_source_explains_all_its_chunks(notes: Path, flowbed: Call) -> None:
    """An id of a chunk without its ordinal, as a hit shows it."""
    assert notes.exists()
    (chunk,) = flowbed("why", "notes#tea.txt", "--json").json["chunks"]
    assert chunk["chunk"]["id"] == "notes#tea.txt#00000"
    assert "nothing is known of" in flowbed("why", "other#tea.txt").err
