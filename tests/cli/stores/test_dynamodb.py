"""The command line on a project whose ledger is a table of DynamoDB."""

from __future__ import annotations

import shutil
from itertools import count
from typing import TYPE_CHECKING, Any

import boto3
import pytest

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.cli.conftest import Called

    from flowbed.testing.aws import Emulator

ACCOUNT = "300000000002"
TABLES = count(1)


@pytest.fixture
def ledger(aws: Emulator, project: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The name of a table that does not exist, told by the environment as everything else."""
    (project / "flowbed.toml").write_text("")
    name = f"ledger{next(TABLES)}"
    monkeypatch.setenv("FLOWBED_LEDGER", f"dynamodb://{name}")
    for variable, value in aws.variables(account=ACCOUNT).items():
        monkeypatch.setenv(variable, value)
    return name


@pytest.fixture
def dynamodb(aws: Emulator) -> Any:
    return boto3.client("dynamodb", **aws.client(account=ACCOUNT))


def test_dynamodb_project_runs_searches_and_keeps_no_local_ledger(
    ledger: str, dynamodb: Any, project: Path, finished: Path, flowbed: Callable[..., Called]
) -> None:
    """The first command creates the table; runs, changes and deletions then go as with any ledger."""
    notes = project / "notes"
    shutil.copytree(finished / "notes", notes)
    shutil.copy(finished / "flowbed.toml", project)
    assert flowbed("run").status == 0
    found = flowbed("search", "cats", "--json").json
    assert len(found["hits"]) == 3
    assert flowbed("status", "--json").json["chunks"] == {"SUCCESS": 3}
    again = flowbed("run", "--json").json
    assert (again["embedded"], again["chunks"], again["deleted"]) == (0, 0, 0)
    (notes / "tea.txt").write_text("Tea is served at five.\n")
    (notes / "cats.txt").unlink()
    changed = flowbed("run", "--json").json
    assert (changed["embedded"], changed["deleted"], changed["failed"]) == (1, 1, 0)
    assert flowbed("status", "--json").json["chunks"] == {"SUCCESS": 2}
    assert flowbed("why", "notes#tea.txt#00000").status == 0
    assert flowbed("verify").status == 0
    assert flowbed("doctor").status == 0
    assert not list((project / ".flowbed").glob("ledger*"))
    table = dynamodb.describe_table(TableName=ledger)["Table"]
    assert table["BillingModeSummary"]["BillingMode"] == "PAY_PER_REQUEST"
    assert table["StreamSpecification"] == {"StreamEnabled": True, "StreamViewType": "NEW_AND_OLD_IMAGES"}
    expiring = dynamodb.describe_time_to_live(TableName=ledger)["TimeToLiveDescription"]
    assert expiring == {"TimeToLiveStatus": "ENABLED", "AttributeName": "ttl"}


def test_dynamodb_table_that_is_not_a_ledger_is_refused(
    ledger: str, dynamodb: Any, project: Path, flowbed: Callable[..., Called]
) -> None:
    """Neither one with other keys, nor one without the index: nothing is written to it."""
    keys = [{"AttributeName": "id", "KeyType": "HASH"}]
    dynamodb.create_table(
        TableName=ledger,
        KeySchema=keys,
        AttributeDefinitions=[{"AttributeName": "id", "AttributeType": "S"}],
        BillingMode="PAY_PER_REQUEST",
    )
    called = flowbed("status")
    assert called.status == 2
    assert f"the table of dynamodb://{ledger}?region=us-east-1 is not a ledger" in " ".join(
        called.err.split()
    )
    assert dynamodb.scan(TableName=ledger)["Count"] == 0


@pytest.mark.parametrize(
    ("address", "said"),
    [
        ("dynamodb://a", "with a name of 3 to 255 letters"),
        ("dynamodb://table/items", "invalid ledger"),
        ("dynamodb://table?zone=a", "has no option zone; its options are: region, endpoint, profile"),
        ("redis://table", "to dynamodb://table?region=eu-west-1"),
        ("dynamodb://table?profile=nobody", "(nobody)"),
    ],
)
def test_dynamodb_invalid_address_says_what_to_write(
    address: str,
    said: str,
    ledger: str,
    project: Path,
    flowbed: Callable[..., Called],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("FLOWBED_LEDGER", address)
    called = flowbed("status")
    assert called.status == 2
    assert said in " ".join(called.err.split())


def test_dynamodb_without_region_or_credentials_says_which_to_set(
    ledger: str, project: Path, flowbed: Callable[..., Called], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", "/nonexistent")
    for variable in ("AWS_REGION", "AWS_DEFAULT_REGION"):
        monkeypatch.delenv(variable)
    called = flowbed("status")
    assert (called.status, "set AWS_REGION" in called.err) == (2, True), called.err
    monkeypatch.setenv("AWS_REGION", "us-east-1")
    for variable in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(variable)
    called = flowbed("status")
    assert (called.status, "AWS_SECRET_ACCESS_KEY" in called.err) == (2, True), called.err
