"""Both interpreters of state machines, shared by all tests: each takes a second to start."""

from __future__ import annotations

import importlib.util
from typing import TYPE_CHECKING, NoReturn

import pytest
from tests.support.aws.interpreters import Machines, of_emulator, of_moto
from tests.support.aws.moto_machines import MotoMachines

from flowbed.aws.machines import NAMES
from flowbed.testing.s3proxy import S3Proxy

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.support.aws.interpreters import Answering

    from flowbed.testing.aws import Emulator


@pytest.fixture(scope="session")
def machines_of_emulator(aws: Emulator, answering: Answering) -> Machines:
    """Create the machines of the package in the emulator."""
    machines = of_emulator(aws, answering)
    for name in NAMES:
        machines.create(name)
    return machines


@pytest.fixture(scope="session")
def machines_of_moto(answering: Answering, lacking: Callable[[str], NoReturn]) -> Iterator[Machines]:
    """Create the machines of the package in moto."""
    if not importlib.util.find_spec("antlr4"):
        lacking("no moto[stepfunctions]: make setup")
    with (
        S3Proxy(answering.url, seed=5) as proxy,
        MotoMachines(proxy.url) as moto,
    ):
        answering.states = moto.url
        machines = of_moto(proxy, answering)
        for name in NAMES:
            machines.create(name)
        yield machines


# Not a fixture of the session with parameters: where tests of both alternate, it would be created again and again.
@pytest.fixture(params=["emulator", "moto"])
def interpreter(request: pytest.FixtureRequest) -> Machines:
    """Return the machines in one interpreter, and then in the other."""
    found: Machines = request.getfixturevalue(f"machines_of_{request.param}")
    return found


@pytest.fixture
def machines(interpreter: Machines) -> Machines:
    """Return the machines, with functions that have no answers yet."""
    interpreter.functions.forget()
    if interpreter.proxy is not None:
        interpreter.proxy.reset()
    return interpreter
