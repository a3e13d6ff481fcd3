"""Environment variables of other packages: access to stores and providers, metrics and traces."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from flowbed.embedding.vendors import vendor_of

if TYPE_CHECKING:
    from flowbed.settings.project import Settings

# Variables that the AWS command line and SDKs read too, for each option of an s3:// store, in order of precedence.
STANDARD = {
    "endpoint": ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL"),
    "region": ("AWS_REGION", "AWS_DEFAULT_REGION"),
    "profile": ("AWS_PROFILE", "AWS_DEFAULT_PROFILE"),
}
# If any of these is set, S3 takes its keys from the environment or from a role and ignores profile files.
KEYS = (
    "AWS_ACCESS_KEY_ID",
    "AWS_WEB_IDENTITY_TOKEN_FILE",
    "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI",
    "AWS_CONTAINER_CREDENTIALS_FULL_URI",
)
PROXY = {
    "proxy": ("HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy"),
    "no_proxy": ("NO_PROXY", "no_proxy"),
}
# Variables of existing deployments that read Chroma snapshots.
STORAGE_MODE, MOUNT, BUCKET = "CHROMADB_STORAGE_MODE", "CHROMA_ROOT", "CHROMADB_BUCKET"
# Either one sets where OpenTelemetry sends traces.
TRACES = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")
# prometheus_client reads it on import, so only the environment reaches a new process early enough.
COUNTS = "PROMETHEUS_MULTIPROC_DIR"


def store_options(config: Settings, store: str = "") -> dict[str, str]:
    """Return the options of the store: `store_options`, completed for s3:// by the `AWS_*` variables.

    `store` is another address than the project's.
    """
    if not (store or config.store).startswith("s3://"):
        return config.store_options
    found = {
        option: next((os.environ[name] for name in names if os.environ.get(name)), "")
        for option, names in STANDARD.items()
    }
    if any(os.environ.get(name) for name in KEYS):
        found["profile"] = ""
    elif not found["profile"] and _has_default_profile():
        found["profile"] = "default"
    return {**{option: value for option, value in found.items() if value}, **config.store_options}


def provider_options(config: Settings, model: str) -> tuple[str, dict[str, str]]:
    """Return a model as vendor:name and the options of its provider from `[providers.NAME]`.

    A provider that is not named after its vendor sets `vendor`. Only the vendor's own table is completed from the
    variables of the vendor's packages, so that a key is never sent to an address it was not made for.
    """
    provider, _, name = model.partition(":")
    own = config.providers.get(provider, {})
    vendor = own.get("vendor", provider)
    known = vendor_of(f"{vendor}:{name}")
    variables = {**(known.variables if vendor == provider else {}), **(PROXY if known.over_http else {})}
    found = {
        option: next((os.environ[each] for each in names if os.environ.get(each)), "")
        for option, names in variables.items()
    }
    options = {**{option: value for option, value in found.items() if value}, **own}
    options.pop("vendor", None)
    if name in config.prices:
        options.setdefault("price", str(config.prices[name]))
    return f"{vendor}:{name}", options


def chroma_token() -> str:
    """Return the token that is sent to a Chroma server (`CHROMA_TOKEN`), or ""."""
    return os.environ.get("CHROMA_TOKEN", "")


def _has_default_profile() -> bool:
    import configparser

    profiles = configparser.RawConfigParser()
    try:
        profiles.read(
            Path(os.environ.get("AWS_SHARED_CREDENTIALS_FILE") or "~/.aws/credentials").expanduser()
        )
    except (configparser.Error, UnicodeDecodeError, OSError):
        return False
    return profiles.has_section("default")


def shared_counts() -> str:
    """Return the folder in which the processes of one server count together (`PROMETHEUS_MULTIPROC_DIR`), or ""."""
    return os.environ.get(COUNTS, "")


def share_counts(folder: str) -> None:
    """Make the processes started from here count together in `folder`, unless the variable is already set."""
    os.environ.setdefault(COUNTS, folder)


def snapshot_store(config: Settings) -> str:
    """Return the store that snapshots are pulled from: the project's, or `CHROMADB_BUCKET` where it has the default."""
    bucket = os.environ.get(BUCKET, "")
    if not bucket or config.store != type(config)().store:
        return config.store
    return bucket if "://" in bucket else f"s3://{bucket}"


def snapshot_mode() -> tuple[str, str]:
    """Return the storage mode of readers of snapshots and the mount of mode `efs`, "" where the variable is not set."""
    return os.environ.get(STORAGE_MODE, "").lower(), os.environ.get(MOUNT, "")


def traces_wanted() -> bool:
    """Tell whether OpenTelemetry's variables ask for traces; its own package reads where they go."""
    if os.environ.get("OTEL_SDK_DISABLED", "").lower() == "true":
        return False
    exporter = os.environ.get("OTEL_TRACES_EXPORTER", "")
    return exporter != "none" and any((exporter, *(os.environ.get(name) for name in TRACES)))
