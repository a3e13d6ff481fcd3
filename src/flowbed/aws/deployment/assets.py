"""What a template names beside itself, in the bucket of its stack: the zips of functions."""

from __future__ import annotations

import io
import json
import zipfile
from typing import TYPE_CHECKING, Any

from flowbed.errors import Misconfigured

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


def upload_assets(folder: Path, name: str, *, client: Callable[[str], Any]) -> str:
    """Upload the folders and files that the template of a stack in `folder` names, and return their bucket.

    Raises:
        Misconfigured: the bucket cannot be used.
    """
    account = client("sts").get_caller_identity()["Account"]
    bucket = f"{name}-assets-{account}"
    _require_bucket(bucket, client("s3"))
    assets = json.loads((folder / f"{name}.assets.json").read_text("utf-8"))
    for each in assets["files"].values():
        path = folder / each["source"]["path"]
        if path.suffix == ".json":
            continue  # the template: it is uploaded under a name of ours
        body = zipped(path) if path.is_dir() else path.read_bytes()
        for destination in each["destinations"].values():
            upload(bucket, destination["objectKey"], body, client=client)
    return bucket


def upload(bucket: str, key: str, body: bytes, *, client: Callable[[str], Any]) -> str:
    """Upload an object, and return its address over HTTP."""
    storage = client("s3")
    storage.put_object(Bucket=bucket, Key=key, Body=body)
    return f"{storage.meta.endpoint_url}/{bucket}/{key}"


def _require_bucket(bucket: str, storage: Any) -> None:
    """Create the bucket if it is missing."""
    region = storage.meta.region_name
    try:
        storage.head_bucket(Bucket=bucket)
    except storage.exceptions.ClientError as error:
        if error.response["Error"]["Code"] not in ("404", "NoSuchBucket"):
            raise Misconfigured(f"the bucket {bucket} cannot be used for uploads: {error}") from error
        # The oldest region is the one that is never named.
        where = {} if region in ("us-east-1", None) else {"LocationConstraint": region}
        storage.create_bucket(Bucket=bucket, **({"CreateBucketConfiguration": where} if where else {}))


def zipped(folder: Path) -> bytes:
    """Zip a folder, always into the same bytes; every user may read a file, and run one that its owner may run."""
    body = io.BytesIO()
    with zipfile.ZipFile(body, "w", zipfile.ZIP_DEFLATED) as archive:
        for path in sorted(folder.rglob("*")):
            if path.is_file():
                entry = zipfile.ZipInfo(path.relative_to(folder).as_posix(), (1980, 1, 1, 0, 0, 0))
                # Another user runs the function; a file of settings may be its owner's alone on this machine.
                entry.external_attr = (0o755 if path.stat().st_mode & 0o100 else 0o644) << 16
                entry.compress_type = zipfile.ZIP_DEFLATED
                archive.writestr(entry, path.read_bytes())
    return body.getvalue()
