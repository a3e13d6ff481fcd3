"""The emulator of AWS starts, keeps accounts apart, and leaves nothing behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import boto3
import pytest
from botocore.exceptions import ClientError

from flowbed.testing.aws import Emulator

if TYPE_CHECKING:
    from collections.abc import Callable

PATIENCE = 30.0  # s

STARTER = """
import sys
from flowbed.testing.aws import Emulator
aws = Emulator().__enter__()
print(aws.pid, aws._folder, flush=True)
sys.stdin.read()
"""


def create_table(dynamodb: Any, name: str) -> None:
    dynamodb.create_table(
        TableName=name,
        KeySchema=[{"AttributeName": "PK", "KeyType": "HASH"}],
        AttributeDefinitions=[{"AttributeName": "PK", "AttributeType": "S"}],
        BillingMode="PAY_PER_REQUEST",
    )


def until(condition: Callable[[], bool]) -> bool:
    deadline = time.monotonic() + PATIENCE
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.02)
    return condition()


def runs(pid: int) -> bool:
    status = Path(f"/proc/{pid}/stat")
    return status.exists() and status.read_text().rpartition(")")[2].split()[0] != "Z"


def test_emulator_two_accounts_do_not_see_each_other(aws: Emulator) -> None:
    mine, other = (
        boto3.client("dynamodb", **aws.client(account=account))
        for account in ("100000000001", "100000000002")
    )
    create_table(mine, "mine")
    assert (mine.list_tables()["TableNames"], other.list_tables()["TableNames"]) == (["mine"], [])


def test_emulator_stopped_leaves_no_process_and_no_file() -> None:
    with Emulator() as aws:
        pid, folder = aws.pid, aws._folder
        create_table(boto3.client("dynamodb", **aws.client()), "table")
        aws.reset()
        assert boto3.client("dynamodb", **aws.client()).list_tables()["TableNames"] == []
    assert not runs(pid)
    assert not folder.exists()


def test_emulator_whose_starter_is_killed_ends_too(tmp_path: Path) -> None:
    starter = subprocess.Popen(
        [sys.executable, "-c", STARTER],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "TMPDIR": str(tmp_path)},  # what the killed one leaves is removed with it
    )
    assert starter.stdin is not None
    assert starter.stdout is not None
    pid = int(starter.stdout.readline().split()[0])
    assert runs(pid)
    starter.send_signal(signal.SIGKILL)
    starter.communicate()
    assert until(lambda: not runs(pid))


def test_emulator_with_auth_refuses_keys_that_it_did_not_make() -> None:
    with Emulator(auth=True) as aws:
        assert boto3.client("dynamodb", **aws.client()).list_tables()["TableNames"] == []
        others = {**aws.client(), "aws_access_key_id": "AKIAUNKNOWNUNKNOWN00"}
        with pytest.raises(ClientError, match="UnrecognizedClientException"):
            boto3.client("dynamodb", **others).list_tables()
