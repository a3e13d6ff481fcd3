"""LocalStack's interpreter of state machines, which moto carries: another than the emulator's, and with AWS's limits.

It calls functions, and starts executions, at a port of 127.0.0.1 that is given to it. It waits for nothing. Errors of
Lambda itself have the names that AWS gives them.

`python -m tests.support.aws.moto_machines PORT` prints its address, and serves until its standard input ends.
"""

from __future__ import annotations

import functools
import json
import logging
import os
import sys
import threading
from types import SimpleNamespace
from typing import Any

from tests.support.processes.module_server import ModuleServer


class MotoMachines(ModuleServer):
    """The interpreter in a process of its own, while its context is open; `url` is its endpoint."""

    def __init__(self, calls: str) -> None:
        """Call functions at the address `calls`, a port of 127.0.0.1."""
        port = calls.rpartition(":")[2]
        super().__init__("tests.support.aws.moto_machines", port, needs="moto[stepfunctions]")


def in_boto_case(params: dict[str, Any], **_: object) -> dict[str, Any]:
    """Return the parameters of a machine's task as boto3 calls them; moto leaves them as they are."""
    return {f"{name[0].lower()}{name[1:]}": value for name, value in params.items()}


def as_aws_names_it(error: Exception) -> str:
    """Return the name under which AWS tells a machine that Lambda did not answer; moto has one name for all."""
    response = getattr(error, "response", None)  # of an answer, and not of a cut connection
    return f"Lambda.{response['Error']['Code']}" if response else "Lambda.SdkClientException"


def main() -> None:
    """Serve until standard input ends."""
    os.environ["MOTO_PORT"] = sys.argv[1]
    # Loaded by the server only.
    import boto3
    from botocore.exceptions import BotoCoreError, ClientError
    from moto.core.config import default_user_config
    from moto.moto_server.werkzeug_app import create_backend_app
    from moto.stepfunctions.parser.asl.component.common.retry import retrier_decl
    from moto.stepfunctions.parser.asl.component.state.exec.state_task import lambda_eval_utils
    from werkzeug.serving import make_server

    default_user_config["stepfunctions"]["execute_state_machine"] = True
    waiting: Any = retrier_decl
    waiting.time = SimpleNamespace(sleep=lambda _: None)
    # A client takes longer to create than a whole machine to run.
    calling: Any = lambda_eval_utils
    client = functools.cache(calling.boto_client_for)

    def invoke(region: str, service: str, parameters: dict[str, Any]) -> Any:
        try:
            return client(region, service).invoke(**parameters)
        except (ClientError, BotoCoreError) as error:
            told = {"errorType": as_aws_names_it(error), "errorMessage": str(error)}
            raise calling.LambdaFunctionErrorException("Unhandled", json.dumps(told)) from error

    calling.boto_client_for = lambda region, service, **_: SimpleNamespace(
        invoke=lambda **parameters: invoke(region, service, parameters)
    )
    boto3.setup_default_session()
    boto3.DEFAULT_SESSION.events.register("provide-client-params.sfn.StartExecution", in_boto_case)
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = make_server("127.0.0.1", 0, create_backend_app("stepfunctions"), threaded=True)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    sys.stdout.write(f"http://127.0.0.1:{server.port}\n")
    sys.stdout.flush()
    sys.stdin.read()


if __name__ == "__main__":
    main()
