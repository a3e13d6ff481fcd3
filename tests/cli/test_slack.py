"""From an export of Slack to a hit with its link."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.cli.conftest import Called

    Call = Callable[..., Called]


def test_search_over_an_export_shows_the_link_to_the_message(flowbed: Call, project: Path) -> None:
    (project / "export" / "ops").mkdir(parents=True)
    (project / "export" / "channels.json").write_text('[{"id": "C1", "name": "ops"}]')
    (project / "export" / "users.json").write_text('[{"id": "U1", "real_name": "Ann"}]')
    day = project / "export" / "ops" / "2026-01-05.json"
    thread = {"thread_ts": "1767600000.000100"}
    messages = [
        {"user": "U1", "ts": "1767600000.000100", "text": "Why does it hang?", "reply_count": 1, **thread},
        {"user": "U2", "ts": "1767600060.000200", "text": "The lock file.", **thread},
        {"user": "U1", "ts": "1767603600.000300", "text": "Lunch?"},
        {"user": "U1", "ts": "yesterday", "text": "lost"},
    ]
    day.write_text(json.dumps(messages))
    assert flowbed("add", "team", "slack", "export", "--option", "url=https://acme.slack.com").status == 0
    ran = flowbed("run", "--yes")
    assert "2 documents fetched; 2 chunks indexed" in ran.out
    assert "ops/2026-01-05.json:4" in ran.out + ran.err
    found = flowbed("search", "Ann: Why does it hang? U2: The lock file.")
    assert "Ann: Why does it hang? U2: The lock file." in found.out
    assert "https://acme.slack.com/archives/C1/p1767600000000100\n" in found.out
    day.write_text(json.dumps([messages[1], messages[2]]))
    assert flowbed("run", "--yes").status == 0
    hits = flowbed("search", "why", "--json").json["hits"]
    assert {hit["document"] for hit in hits} == {"U2: The lock file.", "Ann: Lunch?"}
    assert hits[0]["metadata"]["channel"] == "#ops"
