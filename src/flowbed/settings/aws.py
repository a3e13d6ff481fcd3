"""What the environment of a Lambda function says: the variables of AWS, and those of existing deployments.

They count only in a Lambda function, which AWS tells by `AWS_LAMBDA_FUNCTION_NAME`.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from flowbed.errors import Misconfigured
from flowbed.settings.environment import SOURCE_TOKENS, STORAGE_MODE
from flowbed.settings.project import FILE, PASSED, PublishSettings, Settings

if TYPE_CHECKING:
    from collections.abc import Callable

FUNCTION, SANDBOX = "AWS_LAMBDA_FUNCTION_NAME", "AWS_LAMBDA_LOG_STREAM_NAME"
ROOT, REGION = "LAMBDA_TASK_ROOT", "AWS_REGION"
# Of the bucket, in order of precedence; they have to agree, since a store is in one bucket.
BUCKETS = ("S3_BUCKET", "S3_BUCKET_NAME", "CHROMADB_BUCKET")
TABLE, QUEUE = "DYNAMODB_TABLE_NAME", "COMPACTION_QUEUE_URL"
CHROMA_URL, CHROMA_HOST, CHROMA_PORT = "CHROMA_HTTP_ENDPOINT", "CHROMADB_HOST", "CHROMADB_PORT"
# Keys of providers and sources: any of them may hold the ARN of a secret in place of the key.
KEYS = ("OPENAI_API_KEY", "VOYAGE_API_KEY", "CO_API_KEY", "COHERE_API_KEY", "HF_TOKEN", "CHROMA_TOKEN")
SECRET = re.compile(r"arn:aws[\w-]*:secretsmanager:[\w-]+:\d*:secret:.+")
PORT, LARGEST_PORT = re.compile("[0-9]{1,5}"), 65_535
# The kinds, and the names, of the publications that the variables ask for.
CHROMA, SNAPSHOTS = "chroma-server", "chroma"


@dataclass(frozen=True, kw_only=True)
class Deployment:
    """A Lambda function: its name, its region, and the queue of compaction, or ""."""

    function: str
    region: str
    queue: str


def deployment() -> Deployment:
    """Return what the environment says about this function."""
    return Deployment(
        function=os.environ.get(FUNCTION, ""),
        region=os.environ.get(REGION, ""),
        queue=os.environ.get(QUEUE, "").strip(),
    )


def sandbox() -> str:
    """Return the name of the sandbox that this process runs in, "" outside Lambda.

    Sandboxes may share a host name, and each numbers its processes from 1.
    """
    return os.environ.get(SANDBOX, "") if os.environ.get(FUNCTION) else ""


def function_folder() -> Path:
    """Return the project folder of this function, with the `flowbed.toml` of its package.

    The package is read-only, and a project needs room for caches.

    Raises:
        Misconfigured: the folder cannot be written.
    """
    package = Path(os.environ.get(ROOT, ".")).absolute()
    name = hashlib.sha256(f"{package} {os.environ.get(FUNCTION, '')}".encode()).hexdigest()[:12]
    folder = Path(tempfile.gettempdir()) / f"flowbed-{name}"
    try:
        (folder / PASSED).parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        _copy(package / FILE, folder / FILE)
        # Settings that passed validation when the package was built, or in an earlier call, are not validated again.
        if (package / PASSED).exists():
            _copy(package / PASSED, folder / PASSED)
    except OSError as error:
        raise Misconfigured(f"the function's folder {folder} cannot be written: {error.strerror}") from error
    return folder


def _copy(source: Path, target: Path) -> None:
    """Copy a file that may be absent, whole at any moment: functions of one machine may share the folder."""
    if not source.exists():
        target.unlink(missing_ok=True)
        return
    if target.exists() and target.read_bytes() == source.read_bytes():
        return
    with source.open("rb") as body, tempfile.NamedTemporaryFile(dir=target.parent, delete=False) as file:
        shutil.copyfileobj(body, file)
    Path(file.name).replace(target)


def secrets_named() -> dict[str, str]:
    """Return the ARN of a secret for each variable that holds one in place of a key."""
    names = {*KEYS, *SOURCE_TOKENS.values()}
    found = {name: os.environ[name].strip() for name in sorted(names) if os.environ.get(name)}
    return {name: arn for name, arn in found.items() if SECRET.fullmatch(arn)}


def resolve_secrets(read: Callable[[str], str]) -> None:
    """Replace each key that is the ARN of a secret by what `read` returns for it.

    This process alone gets the keys: they are in no template and no setting of the function.
    """
    for name, arn in secrets_named().items():
        os.environ[name] = read(arn)


def as_deployed(settings: Settings) -> Settings:
    """Complete settings by the variables of existing deployments; outside Lambda, return them as they are.

    Raises:
        Misconfigured: variables name several buckets, or a port that is none.
    """
    if not os.environ.get(FUNCTION):
        return settings
    default = Settings()
    completed = settings
    if settings.store == default.store and (bucket := _bucket()):
        completed = replace(completed, store=bucket)
    table = os.environ.get(TABLE, "").strip()
    if settings.ledger == default.ledger and table:
        completed = replace(completed, ledger=table if "://" in table else f"dynamodb://{table}")
    wanted: dict[str, dict[str, str]] = {}
    if server := _chroma_server():
        wanted[CHROMA] = {"url": server}
    if os.environ.get(STORAGE_MODE, "").strip():
        wanted[SNAPSHOTS] = {}
    configured = {each.kind for each in settings.publish.values()}
    added = {
        kind: PublishSettings(kind=kind, collections=["*"], options=options)
        for kind, options in wanted.items()
        if kind not in configured
    }
    return replace(completed, publish={**added, **settings.publish})


def _bucket() -> str:
    """Return the address of the bucket that the variables name, or ""; each may have it as a name or an address."""
    found = {name: value for name in BUCKETS if (value := os.environ.get(name, "").strip())}
    addresses = {(value if "://" in value else f"s3://{value}").rstrip("/") for value in found.values()}
    if len(addresses) > 1:
        named = " and ".join(f"{name} = {value}" for name, value in found.items())
        raise Misconfigured(
            f"{named} name several buckets, and a store is in one: name the same one in each, or set store in"
            " flowbed.toml"
        )
    return next(iter(addresses), "")


def _chroma_server() -> str:
    """Return the address of the Chroma server that the variables name, or ""."""
    if url := os.environ.get(CHROMA_URL, "").strip():
        return url if "://" in url else f"http://{url}"
    host, port = os.environ.get(CHROMA_HOST, "").strip(), os.environ.get(CHROMA_PORT, "").strip() or "8000"
    if not host:
        return ""
    if PORT.fullmatch(port) is None or not 0 < int(port) <= LARGEST_PORT:
        raise Misconfigured(f"{CHROMA_PORT} is {port!r}; it has to be a port, such as 8000")
    scheme, _, name = host.rpartition("://")
    return f"{scheme or 'http'}://{name.rstrip('/')}:{port}"
