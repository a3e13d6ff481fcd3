"""The S3 server for tests, and the proxy in front of it with faults on demand."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import boto3
import pytest
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError
from tests.support.servers.s3 import REGION, S3Server

from flowbed.testing.s3proxy import CUT, INTERNAL_ERROR, SLOW_DOWN, S3Fault, S3Proxy

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture
def proxy(s3_server: S3Server) -> Iterator[S3Proxy]:
    with S3Proxy(s3_server.url) as proxy:
        yield proxy


def client(url: str) -> Any:
    """Make a client of AWS's own that tries everything once."""
    return boto3.client(
        "s3",
        endpoint_url=url,
        region_name=REGION,
        aws_access_key_id="testing",
        aws_secret_access_key="testing",  # noqa: S106 - anything is right
        config=Config(retries={"total_max_attempts": 1}, max_pool_connections=32),
    )


def status(call: Any, **arguments: Any) -> int:
    """Call, and give the HTTP status that was answered; 0 where the connection was cut."""
    try:
        return int(call(Bucket="bucket", **arguments)["ResponseMetadata"]["HTTPStatusCode"])
    except ClientError as error:
        return int(error.response["ResponseMetadata"]["HTTPStatusCode"])
    except BotoCoreError:
        return 0


@pytest.mark.parametrize("conditions", [{"IfNoneMatch": "*"}, {"IfMatch": "etag of the first"}])
def test_s3_server_concurrent_conditional_writes_one_wins(
    s3_server: S3Server, tmp_path: Path, conditions: dict[str, str]
) -> None:
    s3 = client(s3_server.url)
    for round_ in range(5):
        key = f"{tmp_path.name}/{round_}"
        if "IfMatch" in conditions:
            conditions = {"IfMatch": s3.put_object(Bucket="bucket", Key=key, Body=b"first")["ETag"]}
        start = threading.Barrier(16)

        def write(
            number: int, key: str = key, start: threading.Barrier = start, held: dict[str, str] = conditions
        ) -> int:
            start.wait()
            return status(s3.put_object, Key=key, Body=str(number).encode(), **held)

        with ThreadPoolExecutor(16) as threads:
            answers = list(threads.map(write, range(16)))
        assert sorted(answers) == [200] + [412] * 15
        body = s3.get_object(Bucket="bucket", Key=key)["Body"].read()
        assert body == str(answers.index(200)).encode()


def test_s3_proxy_without_faults_forwards_and_counts(proxy: S3Proxy, tmp_path: Path) -> None:
    s3, key, body = client(proxy.url), f"{tmp_path.name}/a b/100%/é#?+1", bytes(range(256)) * 8192
    assert status(s3.put_object, Key=key, Body=body) == 200
    assert s3.get_object(Bucket="bucket", Key=key)["Body"].read() == body
    assert s3.head_object(Bucket="bucket", Key=key)["ContentLength"] == len(body)
    listed = s3.list_objects_v2(Bucket="bucket", Prefix=tmp_path.name)["Contents"]
    assert [each["Key"] for each in listed] == [key]
    assert status(s3.get_object, Key=f"{tmp_path.name}/absent") == 404
    assert status(s3.delete_object, Key=key) == 204
    methods = [(each.method, each.status) for each in proxy.exchanges]
    assert methods == [("PUT", 200), ("GET", 200), ("HEAD", 200), ("GET", 200), ("GET", 404), ("DELETE", 204)]
    assert proxy.exchanges[0].key == f"bucket/{key}"
    traffic = proxy.traffic()
    # A client may wrap a body that it sends in checksums.
    assert len(body) <= traffic.sent["PUT"] < 1.01 * len(body)
    assert traffic.received["GET"] > len(body)
    proxy.forget()
    assert not proxy.traffic().requests


@pytest.mark.parametrize(
    ("fault", "answered", "applied"),
    [
        (S3Fault(before=INTERNAL_ERROR), 500, False),
        (S3Fault(before=SLOW_DOWN), 503, False),
        (S3Fault(before=CUT), 0, False),
        (S3Fault(after=INTERNAL_ERROR), 500, True),
        (S3Fault(after=CUT), 0, True),
        (S3Fault(unconditional=True), 200, True),
        (S3Fault(delay=0.01), 412, False),
        (S3Fault(method="GET", before=CUT), 412, False),
        (S3Fault(key="*/other", before=CUT), 412, False),
        (S3Fault(conditional=False, before=CUT), 412, False),
        (S3Fault(calls=[2], before=CUT), 412, False),
        (S3Fault(probability=0.0, before=CUT), 412, False),
    ],
    ids=repr,
)
def test_s3_proxy_fault_answers_and_applies_as_ordered(
    proxy: S3Proxy, s3_server: S3Server, tmp_path: Path, fault: S3Fault, answered: int, applied: bool
) -> None:
    direct, key = client(s3_server.url), f"{tmp_path.name}/k"
    # A condition that does not hold, save where a fault is to be seen to let a write through.
    if not applied or fault.unconditional:
        direct.put_object(Bucket="bucket", Key=key, Body=b"old")
    proxy.order(fault)
    assert status(client(proxy.url).put_object, Key=key, Body=b"new", IfNoneMatch="*") == answered
    found = direct.get_object(Bucket="bucket", Key=key)["Body"].read()
    assert found == (b"new" if applied else b"old")


def test_s3_proxy_truncated_answer_ends_halfway(proxy: S3Proxy, s3_server: S3Server, tmp_path: Path) -> None:
    client(s3_server.url).put_object(Bucket="bucket", Key=tmp_path.name, Body=b"x" * 10_000)
    proxy.order(S3Fault(method="GET", truncate=True))
    answer = client(proxy.url).get_object(Bucket="bucket", Key=tmp_path.name)
    assert answer["ContentLength"] == 10_000
    with pytest.raises(BotoCoreError):
        answer["Body"].read()


def test_s3_proxy_reordered_write_is_overtaken(proxy: S3Proxy, s3_server: S3Server, tmp_path: Path) -> None:
    proxy.order(S3Fault(method="PUT", calls=[1], reorder=True))
    s3, key = client(proxy.url), tmp_path.name
    with ThreadPoolExecutor(1) as thread:
        early = thread.submit(s3.put_object, Bucket="bucket", Key=key, Body=b"early")
        while not proxy.struck:
            time.sleep(0.001)
        s3.put_object(Bucket="bucket", Key=key, Body=b"late")
        early.result()
    assert client(s3_server.url).get_object(Bucket="bucket", Key=key)["Body"].read() == b"early"


def test_s3_proxy_probability_is_repeatable(s3_server: S3Server, tmp_path: Path) -> None:

    def outcomes(seed: int) -> list[int]:
        fault = S3Fault(probability=0.3, before=SLOW_DOWN)
        with S3Proxy(s3_server.url, [fault], seed=seed) as proxy:
            s3 = client(proxy.url)
            return [status(s3.put_object, Key=f"{tmp_path.name}/k", Body=b"x") for _ in range(20)]

    first = outcomes(1)
    assert first == outcomes(1)
    assert first != outcomes(2)
    assert set(first) == {200, 503}
