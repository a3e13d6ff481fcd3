"""Flowbed's functions on AWS in one process, called as queues and state machines call them, with a metered ledger."""

from __future__ import annotations

import asyncio
import contextlib
import io
import json
import os
from collections import Counter
from importlib import import_module
from types import SimpleNamespace
from typing import Any

from benchmarks.sides.metering import Metered
from benchmarks.sides.serve import serve
from flowbed.bed import aopen
from flowbed.ledger.dynamodb import client
from flowbed.settings import function_folder

LEDGER = Metered(client.connect)
CALLED: Counter[str] = Counter()


def enter(variables: dict[str, str]) -> None:
    """Become a Lambda function with these variables."""
    os.environ.update(variables)
    client.connect = LEDGER.connect


def realtime() -> dict[str, Any]:
    """Fetch, and let each event of a batch file, of a run and of a queue be one call: the most calls that can be."""
    LEDGER.forget()
    CALLED.clear()
    for keys in (each["batches"] for each in _call("data_fetcher", {})["sources"].values()):
        for key in keys:
            bucket = os.environ["S3_BUCKET"].removeprefix("s3://").split("/")[0]
            told = {"bucket": {"name": bucket}, "object": {"key": f"index/{key}"}}
            event = {"source": "aws.s3", "detail-type": "Object Created", "detail": told}
            _call("embedder", _queued([event]))
            _commit()
    return _counted()


def batch() -> dict[str, Any]:
    """Fetch, and then do what the machines create-batches and poll-store do."""
    LEDGER.forget()
    CALLED.clear()
    _call("data_fetcher", {})
    for each in _call("find_unembedded", {})["batches"]:
        _call("submit_openai", each)
    for each in _call("list_pending", {}):
        _call("line_polling", {**each, "skip_sqs_notification": True})
    _call("compaction", {})
    return _counted()


def _commit() -> None:
    """Let the stream tell of the runs that wait, and the queue bring its messages."""

    async def waiting() -> list[Any]:
        async with aopen(function_folder()) as bed:
            runs = []
            for collection in await bed.ledger.runs.collections():
                runs += await bed.ledger.runs.pending(collection, limit=100)
            return runs

    before = LEDGER.taken()
    runs = asyncio.run(waiting())
    LEDGER.put_back(before)  # AWS reads the stream, not the table
    records = [
        {
            "eventName": "INSERT",
            "awsRegion": "us-east-1",
            "dynamodb": {
                "SequenceNumber": str(place),
                "NewImage": {
                    name: {"S": value}
                    for name, value in {
                        "record": "RunRow", "id": run.id, "collection": run.collection, "key": run.key,
                        "state": "pending",
                    }.items()
                },
            },
        }
        for place, run in enumerate(runs)
    ]  # fmt: skip
    _call("stream_processor", {"Records": records})
    _call("compaction", _queued([{"entity_data": {"run_id": run.id}} for run in runs]))


def _queued(bodies: list[dict[str, Any]]) -> dict[str, Any]:
    return {
        "Records": [
            {
                "messageId": f"m{place}",
                "receiptHandle": "none",
                "body": json.dumps(body),
                "attributes": {"ApproximateReceiveCount": "1"},
                "eventSource": "aws:sqs",
                "eventSourceARN": "arn:aws:sqs:us-east-1:000000000000:queue",
            }
            for place, body in enumerate(bodies)
        ]
    }


def _call(name: str, event: Any) -> Any:
    CALLED[name] += 1
    handler = import_module(f"flowbed.aws.handlers.{name}").handler
    with contextlib.redirect_stdout(io.StringIO()):
        answer = handler(event, SimpleNamespace(function_name=name, aws_request_id=str(CALLED.total())))
    if isinstance(answer, dict) and answer.get("batchItemFailures"):
        raise RuntimeError(f"{name} failed: {answer}")
    return json.loads(json.dumps(answer))


def _counted() -> dict[str, Any]:
    calls = dict(CALLED)

    async def rows() -> int:
        async with aopen(function_folder()) as bed:
            counts = await bed.ledger.chunks.counts()
            return sum(number for (_, status), number in counts.items() if status == "SUCCESS")

    units = LEDGER.taken()
    return {"calls": calls, "units": units, "chunks": asyncio.run(rows())}


if __name__ == "__main__":
    serve({"enter": enter, "realtime": realtime, "batch": batch})
