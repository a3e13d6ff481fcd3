"""`flowbed aws` on an emulator that asks for roles: deployed, fed, looked at, changed and removed."""

from __future__ import annotations

import asyncio
import json
import time
from typing import TYPE_CHECKING, Any

import boto3
from tests.support.aws_deployment import local_contents, settings_of, write_receipts

from flowbed.storage import open_store
from flowbed.testing.index import assert_same, contents

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from flowbed.testing.aws import Emulator
    from flowbed.testing.simulators import SimulatorProcess

SECONDS = 240


def test_deployment_on_an_emulator_indexes_receipts_as_a_local_run_does(
    emulator: Emulator,
    in_cdk: Callable[..., Any],
    data: Path,
    tmp_path: Path,
    provider: SimulatorProcess,
) -> None:
    """The commands of a user: deploy, invoke, status, logs, diff and destroy; events do the rest."""
    project = tmp_path / "project"
    project.mkdir()
    write_receipts(data, tmp_path, first=1, more=1)
    settings = settings_of(provider, tmp_path)
    (project / "flowbed.toml").write_text(settings)
    local = local_contents(tmp_path / "local", settings)

    def flowbed(*arguments: str, status: int = 0) -> Any:
        done = in_cdk(
            *("python", "-m", "flowbed", "aws", *arguments, "--json", "--config", str(project)),
            variables=emulator.variables(),
        )
        assert done.returncode == status, done.stdout + done.stderr
        return json.loads(done.stdout.splitlines()[-1])

    changes = flowbed("deploy", "--local")["changes"]
    assert {each["action"] for each in changes} == {"Add"}
    fetched = flowbed("invoke", "data_fetcher")["sources"]
    assert sum(each["chunks"] for each in fetched.values()) == local.total
    state = flowbed("status")
    account = emulator.client()
    options = {"endpoint": account["endpoint_url"], "region": account["region_name"]}
    store = open_store(f"s3://{state['outputs']['BucketOutput']}", folder=tmp_path, options=options)
    deadline = time.monotonic() + SECONDS
    while (found := asyncio.run(contents(store))).total < local.total:
        assert time.monotonic() < deadline, (found.total, local.total, flowbed("status"))
        time.sleep(1)
    assert_same(found, local)
    assert any("run.committed" in line for line in flowbed("logs", "compaction")["lines"])
    assert flowbed("diff", "--local")["changes"] == []
    refused = flowbed("invoke", "submit_openai", '{"s3_key": "nothing"}', status=2)
    assert "submit_openai failed" in refused["error"]["message"]
    flowbed("destroy", "--yes")
    assert "no stack" in flowbed("status", status=2)["error"]["message"]
    assert boto3.client("lambda", **account).list_functions()["Functions"] == []
