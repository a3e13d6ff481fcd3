"""Whose jobs are whose, who may create them, and what a revoked key's jobs become."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest
from tests.server.conftest import Running, write_project

from flowbed.bed import aopen
from flowbed.services.jobs import following
from flowbed.services.jobs.stage import finish_jobs

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.server.conftest import Reply

SETTINGS = """
[serve.tiers.writers]
write = true
[serve.tiers.readers]
"""


class Keys:
    """A server that needs keys."""

    def __init__(self, running: Running) -> None:
        self.running = running

    def made(self, tier: str, *, admin: bool = False) -> tuple[str, dict[str, str]]:
        """Create a key, and return its id and its headers."""

        async def create() -> tuple[str, str]:
            async with await aopen(self.running.folder) as bed:
                row, secret = await bed.keys().create("k", secret=bed.secret, tier=tier, admin=admin)
                return row.id, secret

        id_, secret = asyncio.run(create())
        return id_, {"authorization": f"Bearer {secret}"}

    def revoke(self, id_: str) -> None:
        async def revoke() -> None:
            async with await aopen(self.running.folder) as bed:
                await bed.ledger.keys.revoke(id_, at=bed.clock())

        asyncio.run(revoke())

    def create(self, key: dict[str, str], **body: Any) -> Reply:
        return self.running.call(
            "POST", "/v1/jobs", {"collection": "notes", "texts": ["a text"], **body}, key
        )

    def work(self) -> None:
        self.running.wait(finish_jobs(self.running.service.index_jobs))


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Keys]:
    running = Running(write_project(tmp_path_factory.mktemp("owners"), SETTINGS))
    yield Keys(running)
    running.close()


def test_jobs_of_another_key_are_not_found(keys: Keys) -> None:
    (_, mine), (_, theirs) = keys.made("writers"), keys.made("writers")
    job = keys.create(mine).json["id"]
    call = keys.running.call
    for method, path in (
        ("GET", f"/v1/jobs/{job}"),
        ("GET", f"/v1/jobs/{job}/events"),
        ("POST", f"/v1/jobs/{job}/cancel"),
        ("POST", f"/v1/jobs/{job}/retry"),
        ("GET", f"/v1/jobs?after={job}"),
    ):
        assert call(method, path, headers=theirs).status == 404, path
    assert call("PATCH", f"/v1/jobs/{job}", {"priority": 1}, theirs).status == 404
    assert call("GET", "/v1/jobs", headers=theirs).json["data"] == []
    assert [each["id"] for each in call("GET", "/v1/jobs", headers=mine).json["data"]] == [job]
    keys.work()


def test_idempotency_keys_are_those_of_one_key(keys: Keys) -> None:
    (_, mine), (_, theirs) = keys.made("writers"), keys.made("writers")
    first = keys.create({**mine, "idempotency-key": "same"})
    second = keys.create({**theirs, "idempotency-key": "same"})
    assert (first.status, second.status) == (202, 202)
    assert first.json["id"] != second.json["id"]
    keys.work()


def test_keys_that_may_not_write_create_no_jobs(keys: Keys) -> None:
    for tier in ("readers", "default"):
        refused = keys.create(keys.made(tier)[1])
        assert refused.status == 403
        assert "write = true" in refused.refused()["message"]
    assert keys.create(keys.made("readers", admin=True)[1]).status == 202
    keys.work()


def test_file_of_another_key_is_not_found(keys: Keys) -> None:
    (_, mine), (_, theirs) = keys.made("writers"), keys.made("writers")
    form = b'--b\r\nContent-Disposition: form-data; name="purpose"\r\n\r\nuser_data\r\n'
    form += b'--b\r\nContent-Disposition: form-data; name="file"; filename="a.txt"\r\n\r\nsecret\r\n--b--\r\n'
    headers = {**mine, "content-type": "multipart/form-data; boundary=b"}
    file = keys.running.call("POST", "/v1/files", form, headers).json["id"]
    assert keys.create(theirs, texts=None, file_id=file).status == 404
    assert keys.create(mine, texts=None, file_id=file).status == 202
    keys.work()


def test_jobs_of_a_revoked_key_are_cancelled(keys: Keys) -> None:
    id_, key = keys.made("writers")
    job = keys.create(key, texts=["written by a key that is revoked"]).json["id"]
    keys.revoke(id_)
    keys.work()
    _, admin = keys.made("default", admin=True)
    rows = keys.running.wait(keys.running.service.index_jobs.get(None, job))
    assert (rows.state, rows.cancel, rows.stored) == ("cancelled", "keep", 0)
    # An admin's key is no owner of others' jobs.
    assert keys.running.call("GET", f"/v1/jobs/{job}", headers=admin).status == 404


def test_a_key_follows_a_number_of_jobs_at_a_time(keys: Keys, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(following, "FOLLOWED_MOST", 0)
    _, key = keys.made("writers")
    job = keys.create(key).json["id"]
    refused = keys.running.call(
        "GET", f"/v1/jobs/{job}/events", headers={**key, "accept": "text/event-stream"}
    )
    assert (refused.status, refused.headers["retry-after"]) == (429, "10")
    keys.work()
