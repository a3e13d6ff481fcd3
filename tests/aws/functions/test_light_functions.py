"""Functions that run on small machines load neither the index nor a model, through real calls."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest
from tests.support.aws.events import run_record
from tests.support.processes.only_packages import packages_of

from flowbed.aws.deployment.package import requirements

if TYPE_CHECKING:
    from pathlib import Path

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
(batch,) = call("find_unembedded", {"batch_type": "line"})["batches"]
submitted = call("submit_openai", batch)
pending = call("list_pending", {})
stream = call("stream_processor", json.loads(sys.argv[1]))
print(json.dumps({
    "issues": fetched["sources"]["issues"]["chunks"],
    "spent": spent, "imported": imported, "loaded": sorted({name.partition(".")[0] for name in sys.modules}),
    "receipts": receipts["total_receipts"], "pending": len(pending), "stream": stream,
}))
"""


@pytest.fixture
def ledger() -> str:
    """The ledger of a deployment, whose reads and writes load nothing heavy either."""
    return "dynamodb://flowbed"


def with_issues(deployment: Deployment) -> None:
    """Add a source whose texts are longer than a chunk, in Markdown, as issues of trackers are."""
    pages = deployment.package / "pages"
    pages.mkdir()
    (pages / "issue.md").write_text("# Login\n\n" + "Signing in fails behind a proxy. " * 200)
    settings = deployment.package / "flowbed.toml"
    source = f'[sources.issues]\nkind = "files"\nlocation = "{pages}"\n'
    settings.write_text(settings.read_text() + source)


def test_light_functions_load_neither_index_nor_model_nor_numpy(
    deployment: Deployment, tmp_path: Path
) -> None:
    """Their import takes little of the time that each start costs, and their package has all that they import."""
    program = tmp_path / "calls.py"
    program.write_text(CALLS)
    with_issues(deployment)
    packages = json.dumps(packages_of(requirements()))
    queue = deployment.queue("compaction")
    unreadable = run_record("2" * 64, "lines", sequence=2)
    del unreadable["dynamodb"]["NewImage"]["key"]
    event = {"Records": [run_record("1" * 64, "lines"), unreadable]}
    ran = subprocess.run(
        [sys.executable, "-m", "tests.support.processes.only_packages", packages, program, json.dumps(event)],
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
    assert told["issues"] > 1
    assert (told["receipts"], told["pending"], told["stream"]) == (2, 1, {"batchItemFailures": []})
    assert len(deployment.received(queue)) == 1
    (letter,) = deployment.use(lambda bed: bed.dead_letters())
    assert (letter.kind, letter.subject) == ("record", f"R#{'2' * 64} ROW:2")
