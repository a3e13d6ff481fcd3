"""The image of the larger functions: its requirements are enough for all that they do, and what it says is right."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from tests.support.processes.only_packages import packages_of
from tests.support.publishing import read_plainly

import flowbed
from flowbed.aws.stack.functions import FUNCTIONS

if TYPE_CHECKING:
    import pytest
    from tests.aws.conftest import Deployment

DOCKERFILE = Path(__file__).parents[3] / "deploy" / "lambda" / "Dockerfile"
INSTALLED = re.compile(r'RUN pip install --no-cache-dir -c constraints\.txt "\.(\[[\w,]+\])"')

CALLS = """
import json, sys
from importlib import import_module
from types import SimpleNamespace

names = json.loads(sys.argv[1])
called = {name: import_module(f"flowbed.aws.handlers.{name}").handler for name in names}

def call(name, event):
    return called[name](event, SimpleNamespace(aws_request_id="r", function_name=name))

call("data_fetcher", {"sources": ["receipts"]})
done = call("process_receipt_realtime", {"image_id": "image-1", "receipt_id": 1})
(key,) = call("data_fetcher", {"sources": ["notes"]})["sources"]["notes"]["batches"]
event = {"source": "aws.s3", "detail-type": "Object Created", "detail": {
    "bucket": {"name": sys.argv[2]}, "object": {"key": f"index/{key}", "size": 5}}}
embedded = call("embedder", event)
compacted = call("compaction", {})
print(json.dumps({"done": done["status"], "embedded": embedded["chunks"], "compacted": compacted}))
"""


def test_image_installs_what_its_functions_import(
    deployment: Deployment, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With its requirements only, a document is read, receipts are embedded, and snapshots are published."""
    (extras,) = INSTALLED.findall(DOCKERFILE.read_text())
    settings = deployment.package / "flowbed.toml"
    (deployment.package / "notes").mkdir()
    (deployment.package / "notes" / "page.html").write_text("<p>Keys rotate monthly.</p>")
    settings.write_text(
        f'{settings.read_text()}[sources.notes]\nkind = "files"\nlocation = "{deployment.package}/notes"\n'
        '[publish.lines]\nkind = "chroma"\n'
    )
    mount = tmp_path / "mount"
    mount.mkdir()
    monkeypatch.setenv("CHROMADB_STORAGE_MODE", "efs")
    monkeypatch.setenv("CHROMA_ROOT", str(mount))
    program = tmp_path / "calls.py"
    program.write_text(CALLS)
    packages = json.dumps(packages_of([f"flowbed{extras}"]))
    ran = subprocess.run(
        [
            *(sys.executable, "-m", "tests.support.processes.only_packages", packages, program),
            *(json.dumps(sorted(FUNCTIONS)), deployment.bucket),
        ],
        env={**os.environ, "COMPACTION_QUEUE_URL": "http://nowhere"},
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    told = json.loads(ran.stdout.splitlines()[-1])
    assert (told["done"], told["embedded"]) == ("success", 1)
    assert {name: each["rows"] for name, each in told["compacted"]["collections"].items()} == {
        "lines": 3, "notes": 1, "words": 7,
    }  # fmt: skip
    (mounted,) = (
        each for each in (mount / "snapshots" / "lines").iterdir() if not each.is_symlink() and each.is_dir()
    )
    pulled = flowbed.pull("lines", tmp_path / "pulled", store=deployment.store, mode="efs")
    assert (pulled.downloaded, pulled.version) == (0, mounted.name)
    found = read_plainly(pulled.path, "lines")
    assert set(found["ids"]) == deployment.contents().rows["lines"].keys()
