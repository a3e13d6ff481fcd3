"""The command line on a project whose store is an S3 bucket."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import boto3
import pytest
from tests.support.servers.s3 import variables

from flowbed.testing.index import assert_same, contents_of
from flowbed.testing.s3proxy import CONFLICT, CUT, INTERNAL_ERROR, SLOW_DOWN, S3Fault, S3Proxy

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from tests.support.servers.s3 import S3Server

MANIFESTS = "*/_versions/*.manifest"
FAULTS = [
    S3Fault(method="PUT", probability=0.1, after=INTERNAL_ERROR),
    S3Fault(method="PUT", probability=0.1, after=CUT),
    S3Fault(method="PUT", conditional=True, probability=0.1, before=CONFLICT),
    S3Fault(probability=0.02, before=SLOW_DOWN),
    S3Fault(probability=0.02, before=CUT),
    S3Fault(probability=0.1, delay=0.02, jitter=True),
]


@pytest.fixture
def proxy(s3_server: S3Server, monkeypatch: pytest.MonkeyPatch) -> Iterator[S3Proxy]:
    """A proxy to the server, without faults yet, as the project's store."""
    with S3Proxy(s3_server.url) as proxy:
        for name, value in variables(proxy.url).items():
            monkeypatch.setenv(name, value)
        yield proxy


@pytest.fixture
def texts(project: Path, proxy: S3Proxy, flowbed: Callable[..., Any]) -> Path:
    folder = project / "notes"
    folder.mkdir()
    for number in range(20):
        (folder / f"{number:02d}.md").write_text(f"# Note {number}\n\nKept under the number {number}.\n")
    assert flowbed("init").status == 0
    toml = project / "flowbed.toml"
    toml.write_text(f'store = "s3://bucket/{project.parent.name}/store"\n' + toml.read_text())
    assert flowbed("add", "notes", "files", "notes").status == 0
    return folder


def test_s3_project_runs_every_command(texts: Path, flowbed: Callable[..., Any], s3_server: S3Server) -> None:
    """The project's folder has no store."""
    first = flowbed("run", "--json")
    assert (first.status, first.json["embedded"], first.json["failed"]) == (0, 20, 0)
    assert flowbed("run", "--json").json["embedded"] == 0
    (texts / "03.md").write_text("# Note 3\n\nChanged.\n")
    (texts / "04.md").unlink()
    changed = flowbed("run", "--json").json
    assert (changed["embedded"], changed["deleted"]) == (1, 1)
    hits = flowbed("search", "# Note 7\n\nKept under the number 7.", "-n", "1", "--json").json["hits"]
    assert [hit["id"] for hit in hits] == ["notes#07.md#00000"]
    (found,) = flowbed("status", "--json").json["collections"].values()
    assert found["rows"] == 19
    assert len(flowbed("versions", "notes", "--json").json["versions"]["notes"]) >= 2
    assert flowbed("compact", "--json").status == 0
    assert flowbed("run", "--json").json["embedded"] == 0
    assert not (texts.parent / ".flowbed" / "store").exists()
    listed = boto3.client("s3", endpoint_url=s3_server.url).list_objects_v2(
        Bucket="bucket", Prefix=f"{texts.parent.parent.name}/store/"
    )
    kept = {each["Key"].split("/")[2] for each in listed["Contents"]}
    assert kept == {".store", "flowbed.json", "notes"}


def test_s3_run_over_a_bad_network_makes_the_same_index(
    texts: Path, flowbed: Callable[..., Any], proxy: S3Proxy, tmp_path: Path
) -> None:
    """Requests are refused, cut off, or carried out without a response."""
    assert flowbed("run", "--json").status == 0
    good = contents_of(texts.parent)
    store = f'store = "s3://bucket/{tmp_path.name}/again"\nledger = "again.db"\n'
    toml = texts.parent / "flowbed.toml"
    toml.write_text(store + toml.read_text().partition("\n")[2])
    proxy.order(*FAULTS)
    proxy.seed(7)
    runs = [flowbed("run", "--json")]
    while runs[-1].status == 1 and len(runs) < 10:  # such a run says that it is to be run again
        runs.append(flowbed("run", "--json"))
    assert runs[-1].status == 0
    assert sum(run.json["embedded"] for run in runs if run.out) == 0  # all vectors are in the cache
    assert proxy.struck
    proxy.order()
    assert_same(contents_of(texts.parent), good)


def test_s3_two_runs_at_once_embed_each_text_once(texts: Path, proxy: S3Proxy) -> None:
    proxy.order(S3Fault(probability=0.3, delay=0.02, jitter=True))
    command = [sys.executable, "-m", "flowbed", "run", "--json"]
    started = [
        subprocess.Popen(command, cwd=texts.parent, env=os.environ, stdout=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    outputs = [process.communicate(timeout=120)[0] for process in started]
    assert [process.returncode for process in started] == [0, 0]
    assert sum(json.loads(output.splitlines()[-1])["embedded"] for output in outputs) == 20
    assert contents_of(texts.parent).total == 20


def test_s3_store_without_conditional_writes_is_refused(
    texts: Path, flowbed: Callable[..., Any], proxy: S3Proxy
) -> None:
    """Nothing is embedded or written before."""
    proxy.order(S3Fault(method="PUT", unconditional=True))
    ran = flowbed("run")
    assert ran.status == 2
    assert "ignores If-None-Match and If-Match" in ran.err
    assert {each.key.rpartition("/.store/")[2] for each in proxy.exchanges if each.method == "PUT"} == {
        "conditions"
    }


def test_s3_bucket_of_another_project_is_refused(
    texts: Path, flowbed: Callable[..., Any], project: Path
) -> None:
    assert flowbed("run", "--json").status == 0
    (project / ".flowbed" / "ledger.db").rename(project / "away.db")
    ran = flowbed("run")
    assert ran.status == 2
    assert "belongs to another ledger" in ran.err


def test_s3_search_writes_nothing(texts: Path, flowbed: Callable[..., Any], proxy: S3Proxy) -> None:
    """Readers need no permission to write."""
    assert flowbed("run", "--json").status == 0
    proxy.forget()
    assert flowbed("search", "note", "--json").status == 0
    assert flowbed("status", "--json").status == 0
    assert flowbed("versions", "notes").status == 0
    assert set(proxy.traffic().requests) <= {"GET", "HEAD"}
