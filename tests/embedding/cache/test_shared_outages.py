"""Projects that share a Redis, and have providers of one name at different addresses."""

from __future__ import annotations

import shutil
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING

from tests.support.servers.redis import RedisServer

from flowbed.embedding.wrappers.breaker import FAILURES
from flowbed.errors import Transient
from flowbed.settings import read_settings
from flowbed.testing.simulators import Fault, OpenAI, Simulator, running
from flowbed.wiring.models import Embedders

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path
    from typing import NoReturn

    from flowbed.embedding.wrappers.fallback import Fallback

MODEL = "box:text-embedding-3-small"


def open_models(folder: Path, *, redis: str, url: str) -> Embedders:
    """Write a project whose provider `box` is at an address, and open its models."""
    folder.mkdir()
    folder.joinpath("flowbed.toml").write_text(
        f'model = "{MODEL}"\nserve.redis = "{redis}"\n[providers.box]\nvendor = "openai"\n'
        f'base_url = "{url}/v1"\napi_key = "any"\n'
    )
    return Embedders(folder, read_settings(folder), hidden=folder)


async def outcome(source: Fallback) -> str:
    """Send a text, and return what came of it."""
    try:
        await source.embed(["text"], purpose="query")
    except Transient as error:
        return type(error).__name__
    return "answered"


async def test_outage_of_another_address_is_not_heeded(
    tmp_path: Path, lacking: Callable[[str], NoReturn]
) -> None:
    """A provider that is down stops the projects that call it, and no other that has the same name for another."""
    if shutil.which("redis-server") is None:
        lacking("there is no redis-server here: `make services` installs it")
    down = Simulator(OpenAI(), faults=[Fault(kind="error", status=503)])
    answers: list[set[str]] = []
    async with running(down) as first, running(Simulator(OpenAI())) as second, AsyncExitStack() as exits:
        server = exits.enter_context(RedisServer())
        for number, url in enumerate((first, second, first)):
            models = open_models(tmp_path / str(number), redis=server.url, url=url)
            exits.push_async_callback(models.close)
            served = models.stack().served({MODEL: await models.open(MODEL)}, [], coalescing="off")
            answers.append({await outcome(served.source) for _ in range(FAILURES)})
    assert answers == [{"Transient"}, {"answered"}, {"Unavailable"}]
