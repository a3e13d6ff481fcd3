"""Clients of the emulator, one of each service: creating one takes longer than a test."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any

import boto3
import pytest
from tests.support.aws.asking import ACCOUNT
from tests.support.aws.interpreters import relayed

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.support.aws.interpreters import Answering

    from flowbed.testing.aws import Emulator


@pytest.fixture(scope="session")
def client(aws: Emulator) -> Callable[[str], Any]:
    """Return the client of a service, in an account that only these tests have."""
    return functools.cache(lambda service: boto3.client(service, **aws.client(account=ACCOUNT)))


@pytest.fixture(scope="session")
def function(client: Callable[[str], Any], answering: Answering) -> str:
    """Return the ARN of a function that is answered by the test."""
    return relayed(client("lambda"), "told", answering)


@pytest.fixture(autouse=True)
def _forgotten(answering: Answering) -> None:
    answering.forget()
