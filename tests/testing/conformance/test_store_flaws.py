"""Each flaw of vector stores is found by the checks that are about it, and by no others.

The simulator of OpenAI's API has no vector stores, so the flaws are put into Flowbed's own server.
"""

from __future__ import annotations

import asyncio
import random
from typing import TYPE_CHECKING, Any

import pytest
from tests.server.conftest import Running, write_project
from tests.testing.conformance.flaws import Flawed, Told

from flowbed.server.app import working
from flowbed.testing.conformance import CHECKS, Target, examine
from flowbed.testing.conformance.checks import vector_stores as v
from flowbed.testing.simulators import running_thread

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.testing.conformance.flaws import Asked, Inner

OTHERS = 1  # checks that are not about a flaw, and have to pass


class Working(Running):
    async def _start(self) -> str:
        url = await super()._start()
        await self._stack.enter_async_context(working(self.app, self.service))
        return url

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Answer on the event loop of the server."""
        here = asyncio.get_running_loop()

        async def receive_here() -> Any:
            return await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(receive(), here))

        async def send_here(message: Any) -> None:
            await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(send(message), here))

        answering = asyncio.run_coroutine_threadsafe(self.app(scope, receive_here, send_here), self._loop)
        await asyncio.wrap_future(answering)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Working]:
    running = Working(write_project(tmp_path_factory.mktemp("project")))
    yield running
    running.close()


def telling(end: str, change: Callable[[Any], object], *, method: str = "") -> Any:
    """Change the answers of routes whose path ends so."""

    async def flaw(asked: Asked, inner: Inner) -> Told:
        told = await inner(asked.said)
        if asked.path.endswith(end) and told.status == 200 and method in {"", asked.method}:
            change(told.said)
        return told

    return flaw


def forgetting(name: str) -> Any:
    """Leave a field of searches out."""

    async def flaw(asked: Asked, inner: Inner) -> Told:
        if not asked.path.endswith("/search"):
            return await inner(asked.said)
        return await inner({key: value for key, value in asked.said.items() if key != name})

    return flaw


async def keeping(asked: Asked, inner: Inner) -> Told:
    """Say that a file was taken out, and keep it."""
    if asked.method != "DELETE" or "/files/" not in asked.path or "vector_stores" not in asked.path:
        return await inner(asked.said)
    file = asked.path.rpartition("/")[2]
    said = {"id": file, "object": "vector_store.file.deleted", "deleted": True}
    return Told(200, said, {"content-type": "application/json"})


async def undying(asked: Asked, inner: Inner) -> Told:
    """Say that a store was deleted, and keep it."""
    if asked.method != "DELETE" or "/files/" in asked.path:
        return await inner(asked.said)
    store = asked.path.rpartition("/")[2]
    said = {"id": store, "object": "vector_store.deleted", "deleted": True}
    return Told(200, said, {"content-type": "application/json"})


class Sticking:
    """Leave the files of cancelled batches in progress."""

    def __init__(self) -> None:
        self._cancelled: set[str] = set()

    async def __call__(self, asked: Asked, inner: Inner) -> Told:
        told = await inner(asked.said)
        if asked.path.endswith("/cancel"):
            self._cancelled.add(told.said["id"])
        if "/file_batches/" in asked.path and told.said.get("id") in self._cancelled:
            counts = told.said["file_counts"]
            counts.update(in_progress=counts["total"], completed=0, cancelled=0, failed=0)
        return told


def doubled(said: Any) -> None:
    said["file_counts"]["total"] += 1


FLAWS = {
    "no name": (telling("/vector_stores", lambda said: said.update(name="")), {v.described}),
    "score of a distance": (
        telling("/search", lambda said: [hit.update(score=hit["score"] + 1) for hit in said["data"]]),
        {v.found},
    ),
    "attributes are lost": (
        telling("/search", lambda said: [hit.update(attributes={}) for hit in said["data"]]),
        {v.found},
    ),
    "filters are dropped": (forgetting("filters"), {v.filtered}),
    "cancelled batches stay in progress": (Sticking(), {v.ended}),
    "counts that do not add up": (telling("/file_batches", doubled, method="POST"), {v.counted}),
    "files stay": (keeping, {v.removed}),
    "stores stay": (undying, {v.unknown}),
}


async def examined(server: Working, flaw: Any, runs: set[Any]) -> dict[Any, str]:
    checks = [check for check in CHECKS if check.run in runs]
    patience = 1.0 if isinstance(flaw, Sticking) else 30.0
    with running_thread(Flawed(server, flaw)) as url:
        target = Target(url=f"{url}/v1", model="seeded:64", batch_timeout=patience)
        report = await examine(target, kinds=("async",), checks=checks)
    return {check.run: outcome.verdict for check, outcome in zip(checks, report.outcomes, strict=True)}


@pytest.mark.parametrize("name", FLAWS)
async def test_checks_of_stores_server_with_a_flaw_fail_where_they_are_about_it(
    server: Working, name: str
) -> None:
    flaw, about_it = FLAWS[name]
    assert {check for _, found in FLAWS.values() for check in found} == set(v.CHECKS)
    others = [run for run in v.CHECKS if run not in about_it]
    verdicts = await examined(server, flaw, {*about_it, *random.Random(name).sample(others, OTHERS)})
    assert {run for run, verdict in verdicts.items() if verdict == "failed"} == about_it
    assert set(verdicts.values()) <= {"passed", "failed"}
