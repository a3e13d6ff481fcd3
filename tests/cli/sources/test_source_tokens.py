"""Tokens of sources are in no file, log or message, even of an API that repeats them in its answers."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import pytest

from flowbed.settings.environment import SOURCE_TOKENS
from flowbed.sources import WITH_TOKEN
from flowbed.testing.simulators import running_thread
from flowbed.testing.simulators.serving.asgi import read_request, send_answer
from flowbed.testing.simulators.sources import backlog, discord, gitlab, slack
from flowbed.testing.simulators.wire import as_json

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.cli.conftest import Called

    from flowbed.testing.simulators.serving.asgi import Receive, Scope, Send

TOKEN = "sesame0815open"  # noqa: S105 - of the test only
# The simulator of each kind, and where its source is below its address.
PLACES: dict[str, tuple[Callable[[], Any], str]] = {
    "slack": (slack.sample, "/api"),
    "discord": (discord.sample, "/channels/900000000000000001"),
    "gitlab": (gitlab.sample, "/web/app"),
    "backlog": (backlog.sample, ""),
}


class Echo:
    """An API that refuses each call with a status, and repeats the token in every field of its answer."""

    def __init__(self, status: int) -> None:
        self.status = status
        self.seen = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = await read_request(scope, receive)
        assert request is not None
        self.seen += TOKEN in f"{request.headers} {request.query}"
        said = f"{TOKEN} may not"
        body = {"ok": False, "error": said, "message": said, "errors": [{"code": 7, "message": said}]}
        await send_answer(send, as_json(self.status, body))


@pytest.mark.parametrize("kind", PLACES)
def test_token_of_a_source_is_in_no_file_log_or_message(
    kind: str, project: Path, flowbed: Callable[..., Called], monkeypatch: pytest.MonkeyPatch
) -> None:
    app, path = PLACES[kind]
    monkeypatch.setenv(SOURCE_TOKENS[kind], TOKEN)
    served = app()
    setattr(served, "key" if kind == "backlog" else "token", TOKEN)
    with running_thread(served, dated=False) as url:
        called = [flowbed("add", "source", kind, f"{url}{path}", "-v"), flowbed("run", "--json", "-v")]
        assert [each.status for each in called] == [0, 0], called[-1].err
        assert called[-1].json["embedded"] > 0
    settings = project / "flowbed.toml"
    for status in (200, 400, 401, 403):
        echo = Echo(status)
        with running_thread(echo) as other:
            settings.write_text(settings.read_text().replace(url, other))
            url = other
            called += [flowbed("run", "-v"), flowbed("add", "source", kind, f"{url}{path}")]
        assert echo.seen
        # The others may be a source that the token has lost, of which everything is kept.
        assert status not in (400, 401) or called[-2].status != 0
    called += [flowbed("status", "--json"), flowbed("dead-letters", "list", "--json"), flowbed("doctor")]
    said = "".join(each.out + each.err for each in called)
    assert TOKEN not in said
    files = [file for file in project.rglob("*") if file.is_file()]
    assert len(files) > 5
    assert not [file for file in files if TOKEN.encode() in file.read_bytes()]


def test_every_kind_with_a_token_is_tried_here() -> None:
    """Receipts ask Google Places, and have tests of their own for its key."""
    assert {"receipts", *PLACES} == WITH_TOKEN == SOURCE_TOKENS.keys()
    assert os.environ.keys().isdisjoint(SOURCE_TOKENS.values())
