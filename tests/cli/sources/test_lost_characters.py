"""The share of characters that the model does not know, where a user sees it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from flowbed.embedding.reading import MULTILINGUAL, MULTILINGUAL_EXTRA

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    import pytest
    from tests.cli.conftest import Called

JAPANESE = "わたしはキャッシュをよみます。鍵は安全係に頼んで替えてもらってください。"
ENGLISH = "The keys of the release server are rotated by the security team, every quarter."


def test_lost_characters_are_shown_by_plan_why_and_doctor(
    project: Path, flowbed: Callable[..., Called], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Above 5 % each names a model to use instead, and a search finds the text by the letters that are known."""
    monkeypatch.delenv("FLOWBED_MODEL")
    assert flowbed("init").status == 0
    (project / "ja").mkdir()
    (project / "ja" / "a.txt").write_text(JAPANESE, encoding="utf-8")
    (project / "en").mkdir()
    (project / "en" / "b.txt").write_text(ENGLISH, encoding="utf-8")
    assert flowbed("add", "ja", "files", "ja").status == 0
    assert flowbed("add", "en", "files", "en").status == 0

    plan = flowbed("plan", "ja")
    assert "of the characters, which are unknown to the model" in plan.out
    assert MULTILINGUAL in plan.out
    found = flowbed("plan", "ja", "--json").json
    assert 0.05 < found["lost"] < 0.5
    assert flowbed("plan", "en", "--json").json["lost"] == 0
    assert "unknown to the model" not in flowbed("plan", "en").out

    assert flowbed("run", "--yes").status == 0
    why = flowbed("why", "ja#a.txt#00000")
    assert "of its characters, which are unknown to the model" in why.out
    assert MULTILINGUAL in why.out
    assert flowbed("why", "en#b.txt#00000", "--json").json["chunks"][0]["lost"] == 0

    findings = flowbed("doctor", "--json").json["findings"]
    (finding,) = [each for each in findings if each["check"] == "characters"]
    assert finding["subject"] == "ja"
    assert MULTILINGUAL_EXTRA in finding["fix"]

    hits = flowbed("search", JAPANESE, "-n", "1", "--json").json["hits"]
    assert hits[0]["document"] == JAPANESE, "the stored text has no breaks"
    assert hits[0]["score"] > 0.999, "a query is sent as the document was"
