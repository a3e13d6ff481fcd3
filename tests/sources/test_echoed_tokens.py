"""An API that fails, and repeats the token in the answer that says so, brings it into no message."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from flowbed.errors import Error
from flowbed.sources.backlog import open_backlog
from flowbed.sources.discord import open_discord
from flowbed.sources.gitlab import open_gitlab
from flowbed.sources.slack import open_slack
from flowbed.testing.simulators import running
from flowbed.testing.simulators.serving.asgi import read_request, send_answer
from flowbed.testing.simulators.wire import as_json
from flowbed.testing.sources import pages

if TYPE_CHECKING:
    from pathlib import Path

    from flowbed.testing.simulators.serving.asgi import Receive, Scope, Send

TOKEN = "sesame0815open"  # noqa: S105 - of the test only
KINDS = {
    "slack": (open_slack, "/api"),
    "discord": (open_discord, "/channels/900000000000000001"),
    "gitlab": (open_gitlab, "/web/app"),
    "backlog": (open_backlog, ""),
}


@pytest.mark.parametrize("status", [500, 503])
@pytest.mark.parametrize("kind", KINDS)
async def test_answer_of_a_failing_api_that_repeats_the_token_shows_it_nowhere(
    kind: str, status: int, tmp_path: Path
) -> None:
    seen = 0

    async def echo(scope: Scope, receive: Receive, send: Send) -> None:
        nonlocal seen
        request = await read_request(scope, receive)
        assert request is not None
        seen += TOKEN in f"{request.headers} {request.query}"
        said = f"{TOKEN} is out of order"
        body = {"ok": False, "error": said, "message": said, "errors": [{"code": 1, "message": said}]}
        await send_answer(send, as_json(status, body))

    async def sleep(_seconds: float) -> None:
        pass

    opener, path = KINDS[kind]
    async with running(echo) as url:
        found: Any = opener(f"{url}{path}", folder=tmp_path, options={}, clock=lambda: 2**50, token=TOKEN)
        source = replace(found, sleep=sleep)
        with pytest.raises(Error) as raised:
            await pages(source)
        with pytest.raises(Error) as looked:
            await source.look()
    assert seen
    for each in (raised.value, looked.value):
        assert TOKEN not in f"{each!r} {each.__cause__!r}"
        assert str(status) in str(each)
