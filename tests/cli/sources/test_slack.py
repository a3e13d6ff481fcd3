"""From an export of Slack to a hit with its link."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from flowbed.testing.simulators import running_thread
from flowbed.testing.simulators.sources.slack import SlackSimulator, SlackWorkspace

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    import pytest
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


def test_run_slack_api_messages_are_found_and_the_token_is_stored_nowhere(
    flowbed: Call, project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is posted, edited and deleted reaches the search; the token is in no file and no output."""
    monkeypatch.setenv("SLACK_TOKEN", "xoxb-very-secret")
    workspace = SlackWorkspace()
    workspace.add_channel("C1", "ops")
    lunch = workspace.post("C1", "Lunch?")
    workspace.now += 3_600
    with running_thread(SlackSimulator(workspace, token="xoxb-very-secret"), dated=False) as url:  # noqa: S106
        outputs = [flowbed("add", "team", "slack", f"{url}/api", "--option", "channels=ops")]
        assert "  Slack workspace Acme: reads #ops\n" in outputs[-1].out
        outputs.append(flowbed("run", "--yes"))
        assert "1 document fetched; 1 chunk indexed" in outputs[-1].out
        outputs.append(flowbed("search", "Ann: Lunch?"))
        assert f"https://acme.slack.com/archives/C1/p{lunch.replace('.', '')}" in outputs[-1].out
        workspace.delete("C1", lunch)
        workspace.post("C1", "Dinner?")
        workspace.now += 3_600
        outputs.append(flowbed("run", "--yes"))
        hits = flowbed("search", "Lunch?", "--json").json["hits"]
        assert [hit["document"] for hit in hits] == ["Ann: Dinner?"]
        monkeypatch.setenv("SLACK_TOKEN", "xoxb-other-secret")
        outputs.append(flowbed("run", "--yes"))
        assert "set SLACK_TOKEN to the bot token" in outputs[-1].out + outputs[-1].err
    said = "".join(each.out + each.err for each in outputs).encode()
    kept = b"".join(path.read_bytes() for path in project.rglob("*") if path.is_file())
    assert b"secret" not in said + kept


def test_add_says_what_the_token_can_and_cannot_see(flowbed: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    workspace = SlackWorkspace()
    workspace.add_channel("C1", "ops")
    workspace.add_channel("C2", "dev", member=False)
    scopes = ("channels:history", "channels:read", "users:read")
    with running_thread(SlackSimulator(workspace, scopes=scopes), dated=False) as url:
        monkeypatch.delenv("SLACK_TOKEN", raising=False)
        unset = flowbed("add", "team", "slack", f"{url}/api").out
        assert f"  {url}/api cannot be read yet: no token for Slack: set SLACK_TOKEN" in unset
        monkeypatch.setenv("SLACK_TOKEN", "xoxb-1")
        assert flowbed("add", "team", "slack", f"{url}/api").out.splitlines()[1:] == [
            "  Slack workspace Acme: reads #ops",
            "  does not read #dev: the app is not in them",
            "  private channels: the token lacks the scope groups:read, so private channels are not read",
        ]
        named = flowbed("add", "team", "slack", f"{url}/api", "--option", "channels=dev", "--json").json[
            "seen"
        ]
        assert named[0] == "Slack workspace Acme: reads no channel"
        assert "#dev: the app is not in this channel; type /invite and the app's name there" in named
        wrong = flowbed("add", "team", "slack", f"{url}/api", "--option", "channels=opps").out
        assert (
            "channel 'opps' does not exist in Slack, or the token cannot see it (did you mean ops?)" in wrong
        )
    later = flowbed("add", "team", "slack", f"{url}/api").out
    assert "cannot be read yet" in later
