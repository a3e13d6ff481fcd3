"""From a server of Discord to a hit with its link."""

from __future__ import annotations

from typing import TYPE_CHECKING

from flowbed.testing.simulators import running_thread
from flowbed.testing.simulators.sources.discord import FORUM, Discord

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    import pytest
    from tests.cli.conftest import Called

    Call = Callable[..., Called]


def test_run_discord_api_messages_are_found_and_the_token_is_stored_nowhere(
    flowbed: Call, project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is posted, edited and deleted reaches the search; the token is in no file and no output."""
    discord = Discord(token="very-secret")  # noqa: S106
    ops, forum = discord.add_channel("ops"), discord.add_channel("help", kind=FORUM)
    lunch = discord.post(ops, "Lunch?")
    post = discord.start_thread(forum, "How do I restore a backup?", "Which command is it?")
    discord.advance(3_600)
    with running_thread(discord, dated=False) as url:
        location = f"{url}/channels/{discord.server}"
        monkeypatch.delenv("DISCORD_TOKEN", raising=False)
        outputs = [flowbed("add", "chat", "discord", location)]
        assert "cannot be read yet: no token for Discord: set DISCORD_TOKEN" in outputs[-1].out
        monkeypatch.setenv("DISCORD_TOKEN", "very-secret")
        outputs.append(flowbed("add", "chat", "discord", location))
        assert "  Discord server Acme: reads #ops, #help\n" in outputs[-1].out
        outputs.append(flowbed("run", "--yes"))
        assert "2 documents fetched; 2 chunks indexed" in outputs[-1].out
        outputs.append(flowbed("search", "restore a backup"))
        assert f"https://discord.com/channels/{discord.server}/{post}/{post}" in outputs[-1].out
        outputs.append(flowbed("why", f"https://discord.com/channels/{discord.server}/{ops}/{lunch}"))
        assert f"chat#{ops}/d/2026-01-05#{lunch}" in outputs[-1].out
        discord.delete(ops, lunch)
        discord.edit(post, post, "Which program is it?")
        discord.advance(90_000)
        outputs.append(flowbed("run", "--yes"))
        hits = flowbed("search", "Lunch?", "--json").json["hits"]
        assert [hit["document"] for hit in hits] == ["Ann: Which program is it?"]
        monkeypatch.setenv("DISCORD_TOKEN", "other-secret")
        outputs.append(flowbed("run", "--yes"))
        assert "refuses the token: set DISCORD_TOKEN" in outputs[-1].out + outputs[-1].err
    said = "".join(each.out + each.err for each in outputs).encode()
    kept = b"".join(path.read_bytes() for path in project.rglob("*") if path.is_file())
    assert b"secret" not in said + kept
