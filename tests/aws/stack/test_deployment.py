"""`flowbed aws` on an emulator that asks for roles: deployed, fed, looked at, changed and removed."""

from __future__ import annotations

import asyncio
import json
import time
from typing import TYPE_CHECKING, Any

import boto3
from tests.support.aws.deployment import local_contents, settings_of, write_receipts

from flowbed.cli.app import run
from flowbed.storage import open_store
from flowbed.testing.index import assert_same, contents

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    import pytest

    from flowbed.testing.aws import Emulator
    from flowbed.testing.simulators import SimulatorProcess

SECONDS = 240


def test_deployment_on_an_emulator_indexes_receipts_as_a_local_run_does(
    emulator: Emulator,
    in_cdk: Callable[..., Any],
    data: Path,
    tmp_path: Path,
    provider: SimulatorProcess,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The commands of a user: deploy, invoke, status, logs, diff and destroy; events do the rest.

    A run that somebody wrote into the table is a dead letter, which the role of the stream's function allows.

    Only those that write the template need the environment with CDK.
    """
    project = tmp_path / "project"
    project.mkdir()
    write_receipts(data, tmp_path, receipts=1, more=1)
    settings = settings_of(provider, tmp_path)
    (project / "flowbed.toml").write_text(settings)
    local = local_contents(tmp_path / "local", settings)

    def with_cdk(*arguments: str) -> Any:
        done = in_cdk(
            *("python", "-m", "flowbed", "aws", *arguments, "--json", "--config", str(project)),
            variables=emulator.variables(),
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return json.loads(done.stdout.splitlines()[-1])

    def flowbed(*arguments: str, status: int = 0) -> Any:
        capsys.readouterr()
        ended = run(["aws", *arguments, "--json", "--config", str(project)])
        printed = capsys.readouterr()
        assert ended == status, printed.out + printed.err
        return json.loads(printed.out.splitlines()[-1])

    def why(subject: str) -> str:
        run(["why", subject, "--config", str(project)])
        printed = capsys.readouterr()
        return printed.out + printed.err

    changes = with_cdk("deploy", "--local")["changes"]
    assert {each["action"] for each in changes} == {"Add"}
    state = flowbed("status")
    bucket, table = (state["outputs"][f"{each}Output"] for each in ("Bucket", "Table"))
    fetched = flowbed("invoke", "data_fetcher")["sources"]
    assert sum(each["chunks"] for each in fetched.values()) == local.total
    account = emulator.client()
    by_hand = {"PK": "R#by-hand", "SK": "ROW", "record": "RunRow", "state": "pending"}
    item = {name: {"S": value} for name, value in by_hand.items()}
    boto3.client("dynamodb", **account).put_item(TableName=table, Item=item)
    options = {"endpoint": account["endpoint_url"], "region": account["region_name"]}
    store = open_store(f"s3://{bucket}", folder=tmp_path, options=options)
    deadline = time.monotonic() + SECONDS
    while (found := asyncio.run(contents(store))).total < local.total:
        assert time.monotonic() < deadline, (found.total, local.total, flowbed("status"))
        time.sleep(1)
    assert_same(found, local)
    with monkeypatch.context() as operator:
        operator.setenv("FLOWBED_STORE", f"s3://{bucket}")
        operator.setenv("FLOWBED_LEDGER", f"dynamodb://{table}")
        while "a run in the stream has no id" not in (said := why("R#by-hand ROW")):
            assert time.monotonic() < deadline, said
            time.sleep(0.5)
    assert any("run.committed" in line for line in flowbed("logs", "compaction")["lines"])
    assert with_cdk("diff", "--local")["changes"] == []
    refused = flowbed("invoke", "submit_openai", '{"s3_key": "nothing"}', status=2)
    assert "submit_openai failed" in refused["error"]["message"]
    flowbed("destroy", "--yes")
    assert "no stack" in flowbed("status", status=2)["error"]["message"]
    assert boto3.client("lambda", **account).list_functions()["Functions"] == []
