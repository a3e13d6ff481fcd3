"""Events of a bucket: the store's prefix, coded keys, other buckets, and messages to send again."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any
from urllib.parse import quote_plus

import boto3
from tests.support.servers.s3 import variables

from flowbed.bed import aopen

if TYPE_CHECKING:
    from pathlib import Path

    import pytest
    from tests.support.servers.s3 import S3Server

DAY = "partner/chunked/year=2026/month=01/day=06"


def record(key: str, bucket: str = "bucket") -> dict[str, Any]:
    """Return a record of S3, with its key as S3 codes it."""
    coded = quote_plus(key, safe="/")
    return {
        "eventName": "ObjectCreated:Put",
        "s3": {"bucket": {"name": bucket}, "object": {"key": coded}},
    }


async def test_bucket_notification_in_sqs_is_embedded(
    s3_server: S3Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Keys are taken below the store's prefix; what lies elsewhere is ignored with the reason."""
    for name, value in variables(s3_server.url).items():
        monkeypatch.setenv(name, value)
    prefix = f"{tmp_path.name}/store"
    key = f"{prefix}/{DAY}/batch_日本 1+1.json"
    client = boto3.client("s3", endpoint_url=s3_server.url)
    client.put_object(Bucket="bucket", Key=key, Body=b'{"chunks": [{"text": "from a bucket"}]}')
    (tmp_path / "flowbed.toml").write_text(f'model = "seeded:32"\nstore = "s3://bucket/{prefix}"\n')
    # Ceph sends raw keys: what looks coded is not.
    client.put_object(Bucket="bucket", Key=f"{prefix}/{DAY}/a+b.json", Body=b'[{"text": "raw key"}]')
    raw = record("")
    raw["s3"]["object"]["key"] = f"{prefix}/{DAY}/a+b.json"
    bodies = {
        "good": {"Records": [record(key)]},
        "elsewhere": {
            "Records": [record(key, "other"), record("elsewhere/a.json"), record(f"{prefix}/notes.txt")]
        },
        "gone": {"Records": [record(f"{prefix}/{DAY}/batch_gone.json")]},
        "raw": {"Records": [raw]},
        "odd": {"hello": 1},
    }
    sqs = {
        "Records": [
            {"messageId": name, "eventSource": "aws:sqs", "body": json.dumps(body)}
            for name, body in bodies.items()
        ]
    }
    async with aopen(tmp_path) as bed:
        done = await bed.embed(json.dumps(sqs))
        assert (done.batches, done.read, done.already, done.messages) == (2, 2, 0, ("odd",))
        assert done.ignored == {
            "in bucket 'other', not in bucket": 1,
            f"not below {prefix}/": 1,
            "not a batch file": 1,
            "deleted meanwhile": 1,
        }
        (hit,) = await bed.search("from a bucket", limit=1)
        assert hit.id == "partner#year=2026/month=01/day=06/batch_日本 1+1#00000"
