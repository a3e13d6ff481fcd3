"""The text of Slack messages."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import orjson
import pytest

from flowbed.sources.slack.text import Names, message_text, mrkdwn

if TYPE_CHECKING:
    from pathlib import Path

NAMES = Names(users={"U1": "Ann"}, channels={"C1": "ops"})


@pytest.mark.parametrize(
    ("raw", "text"),
    [
        ("<@U1> and <@U2|bob> and <@U3>", "@Ann and @bob and @U3"),
        ("<#C1|> <#C2|logs> <#C3|>", "#ops #logs #C3"),
        ("<!here> <!channel> <!subteam^S1|@ops> <!subteam^S2>", "@here @channel @ops @S2"),
        ("<!date^1767657600^{date_short}|6 Jan 2026>", "6 Jan 2026"),
        ("<https://x.org/?a=1&amp;b=2|the page>", "[the page](https://x.org/?a=1&b=2)"),
        ("<https://x.org> <mailto:a@x.org|a@x.org>", "https://x.org a@x.org"),
        ("&lt;@U1&gt; &amp;lt;", "<@U1> &lt;"),
        ("`<@U1>` &lt;b&gt; ```<https://x.org|x.org>\n<@U1>```", "`<@U1>` <b> ```x.org\n<@U1>```"),
        ("*bold* _it_ ~no~", "*bold* _it_ ~no~"),
        ("a < b > c <", "a < b > c <"),
    ],
)
def test_mrkdwn(raw: str, text: str) -> None:
    assert mrkdwn(raw, NAMES) == text


def test_samples_of_every_shape(data: Path) -> None:
    """Blocks, attachments, files and references of the documented shapes become readable lines."""
    history = orjson.loads((data / "api-samples/slack/invented.history-shapes.json").read_bytes())
    names = Names(users={"U0AAAAAA2": "Bob"}, channels={"C0AAAAAA2": "ops"})
    blocks, bot, files, broadcast, *_ = (message_text(each, names) for each in history["messages"])
    assert blocks == (
        "Steps for @Bob in #ops: [restore](https://wiki.example.org/restore):tada:\n"
        "1. stop the writer\n2. copy `data/`\n```\ncp -a data/ /mnt/copy\n```\n> never while it runs"
    )
    assert bot == "Deploy\n[Deploy 41](https://ci.example.org/41)\npassed in 3 min\nbranch: main"
    assert files == "see the log\n[file: run.log]\nfirst lines"
    assert broadcast == "It was the lock file <pid> & nothing else"


BLOCKS: list[tuple[dict[str, Any], str]] = [
    ({"type": "section", "text": {"type": "mrkdwn", "text": "hi <@U1>"}}, "hi @Ann"),
    (
        {"type": "section", "fields": [{"type": "plain_text", "text": "a"}, {"type": "mrkdwn", "text": "b"}]},
        "a\nb",
    ),
    ({"type": "header", "text": {"type": "plain_text", "text": "&lt;top>"}}, "&lt;top>"),
    ({"type": "markdown", "text": "# top"}, "# top"),
    (
        {"type": "table", "rows": [[{"type": "raw_text", "text": "a"}, {"type": "raw_text", "text": "b"}]]},
        "a | b",
    ),
    ({"type": "context", "elements": [{"type": "mrkdwn", "text": "a"}, {"type": "image"}]}, "a"),
    ({"type": "divider"}, ""),
]


@pytest.mark.parametrize(("block", "text"), BLOCKS)
def test_block(block: dict[str, Any], text: str) -> None:
    assert message_text({"blocks": [block], "text": "" if text else "x"}, NAMES) == text or "x"
    assert message_text({"blocks": [block]}, NAMES) == text


@pytest.mark.parametrize(
    "message",
    [
        {"blocks": 1, "attachments": "x", "files": [None, 3]},
        {
            "blocks": [
                {
                    "type": "rich_text",
                    "elements": [{"type": "rich_text_list", "elements": "x", "indent": "y"}],
                }
            ]
        },
        {"attachments": [{"fields": [1, {"value": 2}], "title": []}]},
        {"text": 3},
    ],
)
def test_malformed_parts_are_left_out(message: dict[str, Any]) -> None:
    assert message_text({**message}, NAMES) == ""


def test_blocks_nested_without_end_are_cut() -> None:
    element: dict[str, Any] = {"type": "rich_text_section", "elements": [{"type": "text", "text": "deep"}]}
    for _ in range(60):
        element = {"type": "rich_text_list", "elements": [element]}
    assert message_text({"blocks": [{"type": "rich_text", "elements": [element]}]}, NAMES) == ""


def test_unfurl_is_cut_and_fallback_is_only_used_alone() -> None:
    unfurl = {"from_url": "https://x.org", "text": "w " * 1_000, "fallback": "nothing"}
    assert len(message_text({"attachments": [unfurl]}, NAMES)) < 510
    assert message_text({"attachments": [{"fallback": "only this"}]}, NAMES) == "only this"


def test_attachment_equal_to_the_text_is_not_repeated() -> None:
    assert message_text({"text": "a &amp; b", "attachments": [{"text": "a &amp; b"}]}, NAMES) == "a & b"


def test_file_without_content_and_address_of_a_file_are_left_out() -> None:
    files = [{"mode": "tombstone", "title": "x"}, {"title": "run", "url_private": "https://x?t=xoxe-1"}]
    assert message_text({"files": files}, NAMES) == "[file: run]"
