"""Two interpreters of state machines, the emulator's and moto's, that call functions of the test's own process.

with Answering() as functions, S3Proxy(functions.url) as proxy, MotoMachines(proxy.url) as moto:
functions.states = moto.url
machines = of_moto(proxy, functions)      # or of_emulator(emulator, functions)
functions.answer = lambda name, event: {"batches": []}
machines.execute("create-batches")
"""

from __future__ import annotations

import http.client
import io
import json
import sys
import threading
import time
import uuid
import zipfile
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any, Self
from urllib.parse import unquote

import boto3

from flowbed.aws.machines import FUNCTION, NAMES, definition

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from flowbed.testing.aws import Emulator
    from flowbed.testing.s3proxy import S3Proxy

PATIENCE = 120.0  # s
REGION, ACCOUNT = "us-east-1", "123456789012"
CALLED = {name for each in NAMES for name in FUNCTION.findall(json.dumps(definition(each)))}
# The runtime of a function of the emulator: it passes events on to the test, and its answers back.
RELAY = """
import json, os, urllib.request
api = "http://" + os.environ["AWS_LAMBDA_RUNTIME_API"] + "/2018-06-01/runtime/invocation/"
def post(url, body):
    return urllib.request.urlopen(urllib.request.Request(url, data=body, method="POST"))
while True:
    with urllib.request.urlopen(api + "next") as call:
        request, event = call.headers["Lambda-Runtime-Aws-Request-Id"], call.read()
    path = "/2015-03-31/functions/" + os.environ["AWS_LAMBDA_FUNCTION_NAME"] + "/invocations"
    with post(os.environ["ANSWERS"] + path, event) as answer:
        failed, body = answer.headers["X-Amz-Function-Error"], answer.read()
    if failed and json.loads(body)["errorType"] == "Runtime.ExitError":
        os._exit(137)
    post(api + request + ("/error" if failed else "/response"), body).close()
"""
BOOTSTRAP = f"""#!/bin/sh
exec {sys.executable} -I -S "$LAMBDA_TASK_ROOT/relay.py"
"""


class Exited(Exception):  # noqa: N818 - the class says what happened
    """The process of the function ended during the call."""


class Answering:
    """Answers for all functions, while its context is open; `calls` are the names and events, in order.

    `answer` gets a name and an event. What it raises reaches the interpreter as the error of a function; `Exited` as
    the end of its process.
    """

    def __init__(self) -> None:
        """Answer nothing yet; other requests than calls of functions go to `states`."""
        self.answer: Callable[[str, Any], Any] = _nothing
        self.states = ""
        self.calls: list[tuple[str, Any]] = []
        self.most_at_once: Counter[str] = Counter()
        self._now: Counter[str] = Counter()
        self._lock = threading.Lock()

    def __enter__(self) -> Self:
        """Start to serve."""
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                outer._serve(self)

            def log_message(self, *_: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Stop."""
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    @property
    def port(self) -> int:
        """The port of 127.0.0.1."""
        return int(self._server.server_address[1])

    @property
    def url(self) -> str:
        """Where it serves."""
        return f"http://127.0.0.1:{self.port}"

    def forget(self) -> None:
        """Answer nothing, and forget all calls."""
        self.answer, self.calls, self.most_at_once = _nothing, [], Counter()

    def number(self, name: str) -> int:
        """Return how often a function was called."""
        return sum(called == name for called, _ in self.calls)

    def _serve(self, handler: BaseHTTPRequestHandler) -> None:
        body = handler.rfile.read(int(handler.headers.get("Content-Length", 0)))
        parts = unquote(handler.path).split("/")
        if parts[-1] == "invocations":
            status, headers, answer = self._call(parts[-2].rpartition(":")[2], json.loads(body or b"null"))
        else:
            status, headers, answer = self._pass_on(handler, body)
        handler.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(answer))}.items():
            handler.send_header(name, value)
        handler.end_headers()
        handler.wfile.write(answer)

    def _call(self, name: str, event: Any) -> tuple[int, dict[str, str], bytes]:
        with self._lock:
            self.calls.append((name, event))
            self._now[name] += 1
            self.most_at_once[name] = max(self.most_at_once[name], self._now[name])
        try:
            return 200, {}, json.dumps(self.answer(name, event)).encode()
        except Exception as error:  # noqa: BLE001 - as a runtime does
            kind = "Runtime.ExitError" if isinstance(error, Exited) else type(error).__name__
            told = {"errorType": kind, "errorMessage": str(error)}
            return 200, {"X-Amz-Function-Error": "Unhandled"}, json.dumps(told).encode()
        finally:
            with self._lock:
                self._now[name] -= 1

    def _pass_on(self, handler: BaseHTTPRequestHandler, body: bytes) -> tuple[int, dict[str, str], bytes]:
        connection = http.client.HTTPConnection(self.states.partition("://")[2], timeout=PATIENCE)
        try:
            connection.request("POST", handler.path, body, dict(handler.headers))
            answer = connection.getresponse()
            kind = answer.headers.get("Content-Type", "application/json")
            request = answer.headers.get("x-amzn-RequestId", "none")
            return answer.status, {"Content-Type": kind, "x-amzn-RequestId": request}, answer.read()
        finally:
            connection.close()


@dataclass(frozen=True, kw_only=True)
class Machines:
    """The machines of the package in one interpreter; `arns` are those of functions, by name.

    All that moto's asks of Lambda and of Step Functions, and all that it is asked, passes the `proxy`.
    """

    client: Any
    functions: Answering
    arns: Mapping[str, str]
    proxy: S3Proxy | None = None
    machines: dict[str, str] = field(default_factory=dict)

    def create(self, name: str, *, called: str = "", change: Callable[[str], str] = str) -> None:
        """Create a machine; `called` is another name for it, and `change` is made to its definition."""
        said = change(json.dumps(definition(name, self.arns)))
        role = f"arn:aws:iam::{ACCOUNT}:role/machines"
        made = self.client.create_state_machine(name=called or name, definition=said, roleArn=role)
        self.machines[called or name] = made["stateMachineArn"]

    def execute(self, name: str, event: Any = None) -> dict[str, Any]:
        """Run a machine to its end, and return its `status`, `output`, `error` and `cause`."""
        arn, told = self.machines[name], json.dumps(event or {})
        # Named: the second execution without a name is refused by moto.
        own = uuid.uuid4().hex
        execution = arn.replace(":stateMachine:", ":execution:") + f":{own}"
        # Where the answer to the start was lost, the client starts it again, and it may have ended by then.
        with suppress(self.client.exceptions.ExecutionAlreadyExists):
            self.client.start_execution(stateMachineArn=arn, name=own, input=told)
        deadline = time.monotonic() + PATIENCE
        while (found := self.client.describe_execution(executionArn=execution))["status"] == "RUNNING":
            assert time.monotonic() < deadline, execution
            time.sleep(0.02)
        output = json.loads(found["output"]) if found.get("output") else None
        said = {name: found.get(name) for name in ("status", "error", "cause")}
        return {**said, "output": output, "arn": execution}

    def passed(self, execution: str) -> dict[str, Any]:
        """Return what the Pass states of an execution gave, also those in Maps, by their names."""
        pages = self.client.get_paginator("get_execution_history").paginate(executionArn=execution)
        ended = [
            each["stateExitedEventDetails"]
            for page in pages
            for each in page["events"]
            if each["type"] == "PassStateExited"
        ]
        return {each["name"]: json.loads(each["output"]) for each in ended}

    def executions(self, name: str) -> list[str]:
        """Wait until all executions of a machine have ended, and return how."""
        deadline = time.monotonic() + PATIENCE
        while True:
            listed = self.client.list_executions(stateMachineArn=self.machines[name])["executions"]
            if all(each["status"] != "RUNNING" for each in listed):
                return [each["status"] for each in listed]
            assert time.monotonic() < deadline, listed
            time.sleep(0.02)


def of_moto(proxy: S3Proxy, functions: Answering) -> Machines:
    """Return machines in moto's interpreter, which passes on and is reached over a proxy of the functions."""
    keys = {"aws_access_key_id": "testing", "aws_secret_access_key": "testing"}
    client = boto3.client("stepfunctions", endpoint_url=proxy.url, region_name=REGION, **keys)
    arns = {name: f"arn:aws:lambda:{REGION}:{ACCOUNT}:function:{name}" for name in CALLED}
    return Machines(client=client, functions=functions, arns=arns, proxy=proxy)


def of_emulator(emulator: Emulator, functions: Answering) -> Machines:
    """Return machines in the emulator's interpreter, which waits for nothing."""
    account = emulator.client(account=ACCOUNT)
    emulator.configure(**{"stepfunctions._SFN_WAIT_SCALE": 0})
    lambdas = boto3.client("lambda", **account)
    arns = {name: relayed(lambdas, name, functions) for name in sorted(CALLED)}
    return Machines(client=boto3.client("stepfunctions", **account), functions=functions, arns=arns)


def relayed(lambdas: Any, name: str, functions: Answering, *, timeout: int = 60) -> str:
    """Create a function in the emulator that is answered by the test, and return its ARN."""
    made = lambdas.create_function(
        FunctionName=name,
        Runtime="provided.al2023",
        Handler="relay",
        Role=f"arn:aws:iam::{ACCOUNT}:role/functions",
        Code={"ZipFile": _zipped()},
        Timeout=timeout,
        Environment={"Variables": {"ANSWERS": functions.url}},
    )
    return str(made["FunctionArn"])


def _zipped() -> bytes:
    body = io.BytesIO()
    with zipfile.ZipFile(body, "w") as packed:
        for name, text, mode in (("bootstrap", BOOTSTRAP, 0o755), ("relay.py", RELAY, 0o644)):
            entry = zipfile.ZipInfo(name)
            entry.external_attr = mode << 16
            packed.writestr(entry, text)
    return body.getvalue()


def _nothing(name: str, event: Any) -> Any:
    raise NotImplementedError(f"{name} has no answer to {event}")
