"""MiniStack in a process of its own, on a free port of 127.0.0.1: DynamoDB, S3, SQS, Lambda, Step Functions and more.

    with Emulator() as aws:
        client = boto3.client("dynamodb", **aws.client())     # or a process with aws.variables() in its environment

All data is in memory. An account is a 12-digit access key id, and sees nothing of the others: a test that wants an
empty AWS takes an account that no other has, instead of a server.

MiniStack comes from PyPI and is installed with `--no-deps`, since it pins an old botocore: see `make setup`.
"""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from contextlib import suppress
from pathlib import Path
from typing import Any, Self

from flowbed.errors import Misconfigured
from flowbed.testing.servers import HOST, ended_with_input, free_port

REGION = "us-east-1"
ACCOUNT = "000000000000"
# With `auth`, the one who may do everything in every account; its key is its secret.
ROOT = "test"
_PATIENCE = 60.0  # s: a loaded machine starts it in 10
_STARTS = 3  # another process may take the free port first
# It leads a process group, so that the functions it started end with it.
_KILL_GROUP = "kill -KILL 0"


def variables(url: str, *, account: str = ACCOUNT) -> dict[str, str]:
    """Return the environment in which AWS is the emulator, or the proxy, at `url`."""
    return {
        "AWS_ENDPOINT_URL": url,
        "AWS_REGION": REGION,
        "AWS_DEFAULT_REGION": REGION,
        "AWS_ACCESS_KEY_ID": account,
        "AWS_SECRET_ACCESS_KEY": ROOT,
        "AWS_EC2_METADATA_DISABLED": "true",
    }


class Emulator:
    """An emulator that runs during a `with` block; `url` is its address."""

    def __init__(self, *, auth: bool = False) -> None:
        """With `auth`, only the root and the roles of functions are let in; these may do what their policies allow."""
        self.url = ""
        self._auth = auth
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        """Start the emulator, and wait until it answers."""
        if importlib.util.find_spec("ministack") is None:
            raise Misconfigured(
                "the emulator of AWS is not installed: pip install hypercorn defusedxml jsonata-python pyyaml"
                " && pip install --no-deps ministack"
            )
        # What MiniStack unpacks or writes lies below its temporary folder, so that nothing stays behind.
        self._folder = Path(tempfile.mkdtemp(prefix="flowbed-aws-"))
        if not any(self._start(free_port()) for _ in range(_STARTS)):
            log = self.log()
            self.__exit__()
            raise RuntimeError(f"the emulator of AWS did not start: {log[-2_000:]}")
        return self

    def __exit__(self, *_: object) -> None:
        """Stop the emulator, and delete its data."""
        self._stop()
        shutil.rmtree(self._folder, ignore_errors=True)

    @property
    def pid(self) -> int:
        """The process that serves."""
        assert self._process is not None, "the emulator does not run"
        return self._process.pid

    def client(self, *, account: str = ACCOUNT) -> dict[str, str]:
        """Return the arguments of `boto3.client` that connect to the emulator."""
        return {
            "endpoint_url": self.url,
            "region_name": REGION,
            "aws_access_key_id": ROOT if self._auth else account,
            "aws_secret_access_key": ROOT,
        }

    def variables(self, *, account: str = ACCOUNT) -> dict[str, str]:
        """Return the environment in which AWS is this emulator."""
        return variables(self.url, account=ROOT if self._auth else account)

    def reset(self) -> None:
        """Delete everything in every account."""
        self._ask("POST", "reset", {})

    def configure(self, **settings: object) -> None:
        """Change settings of MiniStack's modules, such as `{"stepfunctions._SFN_WAIT_SCALE": 0}`, which skips waits."""
        self._ask("POST", "config", settings)

    def log(self) -> str:
        """Return what the emulator has written to its log."""
        file = self._folder / "log"
        return file.read_text(errors="replace") if file.exists() else ""

    def _start(self, port: int) -> bool:
        self.url = f"http://{HOST}:{port}"
        environment = {
            "PATH": os.pathsep.join((str(Path(sys.executable).parent), os.defpath)),
            "HOME": str(self._folder),
            "TMPDIR": str(self._folder),
            "LANG": "C.UTF-8",
            "BIND_HOST": HOST,
            "GATEWAY_PORT": str(port),
            # Functions get it from here.
            "AWS_ENDPOINT_URL": self.url,
            "LOG_LEVEL": "WARNING",
            "IOT_MTLS_ENABLED": "0",
            "SFTP_ENABLED": "0",
            **({"AUTH": "true"} if self._auth else {}),
        }
        with (self._folder / "log").open("ab") as log:
            self._process = subprocess.Popen(  # noqa: S603 - MiniStack, from our own environment
                ended_with_input([sys.executable, "-m", "ministack"], kill=_KILL_GROUP),
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=log,
                cwd=self._folder,
                # Nothing else: functions inherit it, and would find what their template forgot.
                env=environment,
                start_new_session=True,
            )
        deadline = time.monotonic() + _PATIENCE
        while self._process.poll() is None and time.monotonic() < deadline:
            if self._answers():
                return True
            time.sleep(0.05)
        self._stop()
        return False

    def _stop(self) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)  # nothing it has is kept
        process.wait(_PATIENCE)
        if process.stdin is not None:
            process.stdin.close()

    def _answers(self) -> bool:
        try:
            self._ask("GET", "health")
        except (urllib.error.URLError, ConnectionError, TimeoutError):
            return False
        return True

    def _ask(self, method: str, what: str, payload: object = None) -> Any:  # parsed JSON
        body = None if payload is None else json.dumps(payload).encode()
        request = urllib.request.Request(  # noqa: S310 - our own http address
            f"{self.url}/_ministack/{what}",
            data=body,
            method=method,
            headers={"content-type": "application/json"},
        )
        with urllib.request.urlopen(request, timeout=_PATIENCE) as answer:  # noqa: S310
            return json.loads(answer.read() or b"null")
