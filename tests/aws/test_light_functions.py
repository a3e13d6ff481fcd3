"""Functions that run on small machines load neither the index nor a model, through real calls."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest
from tests.support.aws_events import run_record

if TYPE_CHECKING:
    from tests.aws.conftest import Deployment

HEAVY = {"lance", "numpy", "onnxruntime", "pyarrow"}
# Not at import: boto3 takes as long to load as all of these together.
AFTER_IMPORT = HEAVY | {"aiohttp", "boto3", "botocore", "obstore", "pydantic", "sqlalchemy"}
# Seconds of CPU for importing them all: each takes less than 0.2 on a machine of 2024, and a loaded one takes longer.
IMPORT_SECONDS = 0.5

CALLS = """
import sys, time, json
from importlib import import_module
from types import SimpleNamespace
began = time.process_time()
names = "data_fetcher find_unembedded submit_openai list_pending find_receipts_realtime stream_processor".split()
called = {name: import_module(f"flowbed.aws.handlers.{name}").handler for name in names}
spent = time.process_time() - began
imported = sorted({name.partition(".")[0] for name in sys.modules})

def call(name, event):
    return called[name](event, SimpleNamespace(aws_request_id="r", function_name=name))

fetched = call("data_fetcher", {})
receipts = call("find_receipts_realtime", {})
(batch,) = call("find_unembedded", {})["batches"]
submitted = call("submit_openai", batch)
pending = call("list_pending", {})
stream = call("stream_processor", json.loads(sys.argv[1]))
print(json.dumps({
    "spent": spent, "imported": imported, "loaded": sorted({name.partition(".")[0] for name in sys.modules}),
    "receipts": receipts["total_receipts"], "pending": len(pending), "stream": stream,
}))
"""


@pytest.fixture
def ledger() -> str:
    """The ledger of a deployment, whose reads and writes load nothing heavy either."""
    return "dynamodb://flowbed"


def test_light_functions_load_neither_index_nor_model_nor_numpy(deployment: Deployment) -> None:
    """Their import takes little of the time that each start of a function costs."""
    queue = deployment.queue("compaction")
    event = {"Records": [run_record("1" * 64, "lines")]}
    ran = subprocess.run(
        [sys.executable, "-c", CALLS, json.dumps(event)],
        env={**os.environ, "COMPACTION_QUEUE_URL": queue},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    told = json.loads(ran.stdout.splitlines()[-1])
    assert HEAVY & set(told["loaded"]) == set()
    assert AFTER_IMPORT & set(told["imported"]) == set()
    assert told["spent"] < IMPORT_SECONDS
    assert (told["receipts"], told["pending"], told["stream"]) == (2, 1, {"batchItemFailures": []})
    assert len(deployment.received(queue)) == 1
