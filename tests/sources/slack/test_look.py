"""What `flowbed add` says of a workspace: what the token can see, and what it cannot."""

from __future__ import annotations

from tests.sources.slack.test_web import problems, reading, workspace_of

from flowbed.testing.simulators.sources.slack import SlackFault, SlackWorkspace


def workspace_of_three() -> SlackWorkspace:
    workspace = workspace_of(1)
    workspace.add_channel("C2", "random", member=False)
    workspace.add_channel("C3", "board", private=True)
    return workspace


async def test_look_names_channels_read_and_not_read() -> None:
    async with reading(workspace_of_three()) as reader:
        assert await reader.source.look() == (
            "Slack workspace Acme: reads #ops, #board",
            "does not read #random: the app is not in them",
        )


async def test_look_names_each_missing_scope() -> None:
    """Those for the lists of channels and people, and those for messages of public and private channels."""
    workspace = workspace_of_three()
    async with reading(
        workspace, scopes=("channels:read", "groups:read", "groups:history", "users:read")
    ) as reader:
        said = await reader.source.look()
        assert said[0] == "Slack workspace Acme: reads #ops, #board"
        assert said[2].startswith("#ops: Slack refuses the token for conversations.history: missing_scope")
        assert "(needed: channels:history; provided: channels:read,groups:read" in said[2]
    async with reading(workspace, scopes=("channels:read", "channels:history", "users:read")) as reader:
        said = await reader.source.look()
        assert said[0] == "Slack workspace Acme: reads #ops"
        assert (
            said[2]
            == "private channels: the token lacks the scope groups:read, so private channels are not read"
        )
    async with reading(workspace, scopes=("channels:read", "channels:history", "groups:read")) as reader:
        said = await reader.source.look()
        assert said[2] == "users: the token lacks the scope users:read, so people appear under their ids"
        assert "(needed: groups:history;" in said[3]


async def test_look_in_slow_mode_waits_for_nothing() -> None:
    """The one call a minute may be taken; that is not worth a wait, nor a line."""
    async with reading(workspace_of_three()) as reader:
        reader.simulator.faults = [SlackFault(kind="ratelimited", method="conversations.history", times=9)]
        assert len(await reader.source.look()) == 2
        assert reader.slept == []


async def test_app_without_a_scope_for_private_channels_reads_the_others() -> None:
    """A scope that only one kind of channel needs is a problem of those channels."""
    async with reading(
        workspace_of_three(), scopes=("channels:read", "channels:history", "groups:read", "users:read")
    ) as reader:
        fetched = await reader.fetch()
        assert set(reader.documents) == {"C1/d/2026-01-05"}
        (said,) = problems(fetched)
        assert said.startswith("#board: Slack refuses the token for conversations.history: missing_scope")
        assert "(needed: groups:history;" in said
