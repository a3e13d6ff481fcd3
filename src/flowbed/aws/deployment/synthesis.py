"""Write the template of a stack, by CDK in a process of its own."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from dataclasses import asdict
from typing import TYPE_CHECKING

from flowbed.errors import Misconfigured

if TYPE_CHECKING:
    from pathlib import Path

    from flowbed.aws.stack.options import StackOptions

# Seconds: CDK takes 20 on a quiet machine.
TIMEOUT = 600
# Characters of CDK's own words that are repeated in an error.
REPEATED = 2_000


def synthesise(folder: Path, options: StackOptions) -> bytes:
    """Write the template, its assets and the report of its checks into `folder`, and return the template.

    Raises:
        Misconfigured: CDK is not installed, or refuses the stack; the message has its words.
    """
    require_cdk()
    done = subprocess.run(  # noqa: S603 - our own program
        [sys.executable, "-m", "flowbed.aws.stack", str(folder), json.dumps(asdict(options))],
        capture_output=True,
        text=True,
        timeout=TIMEOUT,
        check=False,
    )
    if done.returncode:
        raise Misconfigured(f"CDK refuses the stack:\n{done.stderr[-REPEATED:]}")
    return (folder / f"{options.name}.template.json").read_bytes()


def require_cdk() -> None:
    """Require what writes templates.

    Raises:
        Misconfigured: CDK is not installed.
    """
    if importlib.util.find_spec("aws_cdk") is None:
        raise Misconfigured(
            "CDK is not installed: pip install 'flowbed[cdk]', and Node 20 or later, which it runs on"
        )
