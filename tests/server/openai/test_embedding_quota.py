"""The embeddings of a day: shared by all servers, never passed, and seen in headers."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import pytest
from tests.server.conftest import MODEL, Running, write_project

from flowbed.bed import aopen
from flowbed.services.jobs.stage import finish_jobs

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.server.conftest import Reply

SETTINGS = """
[serve.tiers.small]
embeddings_per_day = 150
write = true
[serve.tiers.premium]
requests_per_minute = 1000
"""
SMALL = 150


@pytest.fixture(scope="module")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Running, Running]]:
    """Run two servers over one project."""
    folder = write_project(tmp_path_factory.mktemp("quota"), SETTINGS)
    first, second = Running(folder), Running(folder)
    yield first, second
    first.close()
    second.close()


def key_of(folder: Path, tier: str) -> dict[str, str]:
    async def create() -> str:
        async with await aopen(folder) as bed:
            _, secret = await bed.keys().create(tier, secret=bed.secret, tier=tier)
            return secret

    return {"authorization": f"Bearer {asyncio.run(create())}"}


def embed(server: Running, key: dict[str, str], *texts: str) -> Reply:
    return server.call("POST", "/v1/embeddings", {"model": MODEL, "input": list(texts)}, key)


def test_two_servers_and_200_requests_at_once_never_pass_the_quota(servers: tuple[Running, Running]) -> None:
    key = key_of(servers[0].folder, "small")
    with ThreadPoolExecutor(40) as pool:
        replies = list(
            pool.map(lambda n: embed(servers[n % 2], key, f"a text of its own, number {n}"), range(200))
        )
    statuses = sorted(reply.status for reply in replies)
    granted = statuses.count(200)
    assert set(statuses) == {200, 429}
    # Each server keeps a block of what is left at first, which the other one cannot grant meanwhile.
    assert SMALL - SMALL // 16 - 1 <= granted <= SMALL
    refused = next(reply for reply in replies if reply.status == 429)
    assert refused.refused()["code"] == "insufficient_quota"
    assert refused.headers["x-should-retry"] == "false"
    assert refused.headers["x-ratelimit-limit-embeddings"] == "150"
    assert "retry-after" not in refused.headers
    # What was embedded already costs nothing, and a request that does not fit whole takes nothing.
    assert embed(servers[0], key, *(f"too many at once, {n}" for n in range(151))).status == 429


def test_tiers_have_embeddings_a_day_without_settings(servers: tuple[Running, Running]) -> None:
    for tier, limit in (("free", 1_000), ("premium", 10_000)):
        reply = embed(servers[0], key_of(servers[0].folder, tier), f"one of {tier}", f"two of {tier}")
        assert reply.status == 200, reply.body
        assert reply.headers["x-ratelimit-limit-embeddings"] == str(limit)
        assert reply.headers["x-ratelimit-remaining-embeddings"] == str(limit - 2)
        assert reply.headers["x-ratelimit-reset-embeddings"]
        again = embed(servers[0], key_of(servers[0].folder, tier), f"one of {tier}")
        assert again.headers["x-ratelimit-remaining-embeddings"] == str(limit)  # it was in the cache


def test_job_over_the_quota_waits_for_the_next_day(servers: tuple[Running, Running]) -> None:
    """What is left of the day is embedded; the rest waits until midnight, and the job says so."""
    server, key = servers[0], key_of(servers[0].folder, "small")
    texts = [f"a sentence for the quota, number {n}" for n in range(SMALL + 20)]
    made = server.call("POST", "/v1/jobs", {"collection": "quota", "texts": texts}, key)
    assert made.status == 202, made.body
    server.wait(finish_jobs(server.service.index_jobs))
    job = server.call("GET", f"/v1/jobs/{made.json['id']}", headers=key).json
    assert (job["status"], job["stage"], job["counts"]["embedded"]) == ("running", "embedding", SMALL)
    assert job["queue"]["reason"] == "the quota of embeddings a day is used up"
    assert job["queue"]["due_at"] % 86_400 == 0
    refused = embed(server, key, "one more")
    assert (refused.status, refused.headers["x-ratelimit-remaining-embeddings"]) == (429, "0")
    assert (
        server.call("POST", f"/v1/jobs/{made.json['id']}/cancel", headers=key).json["status"] == "cancelling"
    )
    server.wait(finish_jobs(server.service.index_jobs))
    ended = server.call("GET", f"/v1/jobs/{made.json['id']}", headers=key).json
    assert (ended["status"], ended["counts"]["stored"]) == ("cancelled", SMALL)
