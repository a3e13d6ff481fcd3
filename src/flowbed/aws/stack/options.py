"""The choices of one deployment, as they are passed to the program that writes the template."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from flowbed.errors import Misconfigured

if TYPE_CHECKING:
    from collections.abc import Mapping

Architecture = Literal["arm64", "x86_64"]
IMAGE = re.compile(
    r"(?P<account>\d{12})\.dkr\.ecr\.(?P<region>[\w-]+)\.amazonaws\.com/(?P<repository>[^:@]+)[:@](?P<tag>.+)"
)


@dataclass(frozen=True, kw_only=True)
class StackOptions:
    """What a stack is made with.

    Args:
        name: of the stack; functions and queues begin with it.
        package: the folder of the zip of light functions.
        image: the image of the others, as `ACCOUNT.dkr.ecr.REGION.amazonaws.com/REPOSITORY:TAG`; not for `local`.
        architecture: the kind of processor of all functions; the package and the image have to be made for it.
        local: for the emulator: all functions are zips under AWS's runtime client, and nothing outlives the stack.
        secrets: the variables whose values are kept in Secrets Manager.
        fifo: make the queue of compaction first-in-first-out, one group for each collection.
        tables: existing tables of receipts, as NAME or REGION/NAME, and whether functions write into them.
        fetch_hours: hours between two fetches of the sources.
        poll_minutes: minutes between two looks at the provider's Batch API.
        log_days: days that logs are kept.
        alarm_email: who is told of alarms, or "".
    """

    name: str = "flowbed"
    package: str
    image: str = ""
    architecture: Architecture = "arm64"
    local: bool = False
    secrets: tuple[str, ...] = ("OPENAI_API_KEY",)
    fifo: bool = False
    tables: Mapping[str, bool] = field(default_factory=dict)
    fetch_hours: int = 6
    poll_minutes: int = 15
    log_days: int = 30
    alarm_email: str = ""


def require_image(image: str) -> re.Match[str]:
    """Return the parts of an image's address.

    Raises:
        Misconfigured: it is missing, or none of ECR.
    """
    parts = IMAGE.fullmatch(image)
    if parts is None:
        raise Misconfigured(
            f"name the image of the larger functions, not {image!r}: --image"
            " ACCOUNT.dkr.ecr.REGION.amazonaws.com/REPOSITORY:TAG; deploy/lambda/Dockerfile makes it"
        )
    return parts
