"""/v1/files and /v1/batches with bytes in S3 and rows in Postgres, shared by servers of several machines."""

from __future__ import annotations

import asyncio
import random
import time
from pathlib import Path
from typing import TYPE_CHECKING

import boto3
import openai
import pytest
from tests.server.conftest import write_project
from tests.server.openai.test_batches import LINES, begin, ended, in_progress, lines, require_answers, written
from tests.support.servers.s3 import variables

from flowbed.ledger import open_ledger
from flowbed.testing.s3proxy import CONFLICT, CUT, INTERNAL_ERROR, SLOW_DOWN, S3Fault, S3Proxy

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.server.processes import ServerProcess
    from tests.support.servers.s3 import S3Server

FAULTS = (
    S3Fault(method="PUT", probability=0.1, after=INTERNAL_ERROR),
    S3Fault(method="PUT", probability=0.1, after=CUT),
    S3Fault(method="PUT", conditional=True, probability=0.1, before=CONFLICT),
    S3Fault(probability=0.02, before=SLOW_DOWN),
    S3Fault(probability=0.02, before=CUT),
)


@pytest.fixture
def proxy(s3_server: S3Server, monkeypatch: pytest.MonkeyPatch) -> Iterator[S3Proxy]:
    """Route the environment to the bucket through a proxy, which has no faults yet."""
    with S3Proxy(s3_server.url) as proxy:
        for name, value in variables(proxy.url).items():
            monkeypatch.setenv(name, value)
        yield proxy


@pytest.fixture
def bucket(proxy: S3Proxy, tmp_path: Path) -> str:
    """Return a prefix in the bucket for this test alone."""
    return f"s3://bucket/{tmp_path.name}"


def kept(s3_server: S3Server, bucket: str) -> set[str]:
    """List the keys below a prefix, without those that every store keeps for itself."""
    place = bucket.removeprefix("s3://bucket/")
    client = boto3.client("s3", endpoint_url=s3_server.url)
    listed = client.list_objects_v2(Bucket="bucket", Prefix=f"{place}/").get("Contents", [])
    return {
        key
        for each in listed
        if not (key := each["Key"].removeprefix(f"{place}/")).startswith((".", "flowbed"))
    }


def settings(store: str = "", ledger: str = "") -> str:
    places = {"store": store, "ledger": ledger}
    return "".join(f'{name} = "{value}"\n' for name, value in places.items() if value)


async def holding(ledger_url: str, batch: str) -> int:
    """Return the process that executes a batch."""
    ledger = await open_ledger(ledger_url, folder=Path(), new_id="0" * 32)
    try:
        row = await ledger.jobs.get(batch)
    finally:
        await ledger.close()
    assert row is not None
    return int(row.worker.split("/")[1])


@pytest.mark.parametrize("in_s3", [True, False], ids=["s3", "postgres"])
def test_files_and_batches_in_s3_or_postgres_complete_and_are_deleted(
    request: pytest.FixtureRequest,
    tmp_path: Path,
    s3_server: S3Server,
    serve: Callable[..., ServerProcess],
    in_s3: bool,
) -> None:
    """With a bucket as store, nothing is kept in the project's folder. Tests with kills use both."""
    store = request.getfixturevalue("bucket") if in_s3 else ""
    ledger = "" if in_s3 else request.getfixturevalue("ledger_url")
    folder = write_project(tmp_path / "project", settings(store, ledger))
    texts = [f"text {n}" for n in range(300)]
    with serve(folder, "--no-log-requests").client() as client:
        batch = ended(client, begin(client, written(texts), metadata={"a": "b"}).id)
        assert (batch.status, batch.metadata) == ("completed", {"a": "b"})
        require_answers(lines(client, batch.output_file_id), texts)
        assert client.files.content(batch.input_file_id).read() == written(texts)
        files = [file.id for file in client.files.list(limit=1)]
        assert files == [batch.output_file_id, batch.input_file_id]
        assert [each.id for each in client.batches.list()] == [batch.id]
        if in_s3:
            assert kept(s3_server, store) == {f"files/{file}/content" for file in files}
            assert not (folder / ".flowbed" / "store").exists()
        for file in files:
            client.files.delete(file)
        with pytest.raises(openai.NotFoundError):
            client.files.content(files[0])
        assert client.files.list().data == []
    if in_s3:
        assert kept(s3_server, store) == set()


def test_batch_kills_and_network_faults_answers_each_line_once(
    tmp_path: Path,
    bucket: str,
    ledger_url: str,
    proxy: S3Proxy,
    s3_server: S3Server,
    serve: Callable[..., ServerProcess],
) -> None:
    chance = random.Random(5)
    folder = write_project(tmp_path / "project", settings(bucket, ledger_url))
    texts = [f"text {n}" for n in range(LINES)]
    running = serve(folder, "--no-log-requests")
    with running.client() as client:
        batch = begin(client, written(texts, encoding_format="base64")).id
        in_progress(client, batch)
    proxy.order(*FAULTS)
    proxy.seed(3)
    for _ in range(3):
        running.kill()
        running = serve(folder, "--no-log-requests")
        time.sleep(chance.uniform(0.2, 1.2))
    with running.client(retries=5) as client:
        found = ended(client, batch)
        proxy.order()
        assert (found.status, found.error_file_id) == ("completed", None)
        require_answers(lines(client, found.output_file_id), texts)
    assert proxy.struck
    assert kept(s3_server, bucket) == {
        f"files/{file}/content" for file in (found.input_file_id, found.output_file_id)
    }


def test_batch_server_killed_is_continued_by_a_server_with_another_folder(
    tmp_path: Path, bucket: str, ledger_url: str, serve: Callable[..., ServerProcess]
) -> None:
    servers = [
        serve(write_project(tmp_path / name, settings(bucket, ledger_url)), "--no-log-requests")
        for name in ("a", "b")
    ]
    texts = [f"text {n}" for n in range(LINES)]
    with servers[0].client() as here, servers[1].client() as there:
        batch = begin(here, written(texts, encoding_format="base64")).id
        seen = in_progress(there, batch, here)
        assert here.files.retrieve(seen.input_file_id) == there.files.retrieve(seen.input_file_id)
        holder = asyncio.run(holding(ledger_url, batch))
        (held,) = (each for each in servers if each.process.pid == holder)
        held.kill()
        left = there if held is servers[0] else here
        found = ended(left, batch)
        assert found.status == "completed"
        require_answers(lines(left, found.output_file_id), texts)
