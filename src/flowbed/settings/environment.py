"""Environment variables of other packages: access to stores and providers, metrics and traces."""

from __future__ import annotations

import math
import os
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, TypeVar
from urllib.parse import parse_qsl, urlencode, urlsplit, urlunsplit

from flowbed.embedding.options import TABLE
from flowbed.embedding.vendors import vendor_of
from flowbed.errors import Misconfigured

if TYPE_CHECKING:
    from collections.abc import Callable

    from flowbed.settings.project import Settings

Value = TypeVar("Value", int, float, bool)

# Deltas of one commit: by default, and at most, since a commit holds them in memory.
DELTAS, MOST_DELTAS = 10, 64

# Variables that the AWS command line and SDKs read too, for each option, in order of precedence. The endpoint of one
# service, such as AWS_ENDPOINT_URL_S3, comes before that of all.
ENDPOINT = "AWS_ENDPOINT_URL"
STANDARD = {
    "region": ("AWS_REGION", "AWS_DEFAULT_REGION"),
    "profile": ("AWS_PROFILE", "AWS_DEFAULT_PROFILE"),
}
# The variable with the token of each kind of source that is read over an API, or that asks one; that of a kind of
# another package is its name with `_TOKEN`.
SOURCE_TOKENS = {
    "backlog": "BACKLOG_API_KEY",
    "discord": "DISCORD_TOKEN",
    "gitlab": "GITLAB_TOKEN",
    "receipts": "GOOGLE_PLACES_API_KEY",
    "slack": "SLACK_TOKEN",
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
    return {**_aws_options("S3"), **config.store_options}


def ledger_url(config: Settings) -> str:
    """Return the address of the ledger, with the options of one in DynamoDB completed by the `AWS_*` variables."""
    parts = urlsplit(config.ledger)
    if parts.scheme != "dynamodb":
        return config.ledger
    options = _aws_options("DYNAMODB") | dict(parse_qsl(parts.query, keep_blank_values=True))
    return urlunsplit(parts._replace(query=urlencode(options)))


def _aws_options(service: str) -> dict[str, str]:
    """Return the options of a service of AWS that the environment sets."""
    found = {
        option: next((os.environ[name] for name in names if os.environ.get(name)), "")
        for option, names in {**STANDARD, "endpoint": (f"{ENDPOINT}_{service}", ENDPOINT)}.items()
    }
    if any(os.environ.get(name) for name in KEYS):
        found["profile"] = ""
    elif not found["profile"] and _has_default_profile():
        found["profile"] = "default"
    return {option: value for option, value in found.items() if value}


def provider_options(config: Settings, model: str) -> tuple[str, dict[str, str]]:
    """Return a model as vendor:name and the options of its provider from `[providers.NAME]`.

    A provider that is not named after its vendor sets `vendor`. Only the vendor's own table is completed from the
    variables of the vendor's packages, so that a key is never sent to an address it was not made for. Another table's
    name is among the options as `TABLE`, for messages.
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
    if vendor != provider:
        options[TABLE] = provider
    if name in config.prices:
        options.setdefault("price", str(config.prices[name]))
    return f"{vendor}:{name}", options


class CommitRules(NamedTuple):
    """How deltas are committed; see the table of variables in docs/chroma.md."""

    deltas: int
    delete_processed: bool
    delete_intermediate: bool
    lease_seconds: float
    heartbeat_seconds: float


def commit_rules(config: Settings) -> CommitRules:
    """Return the `[commit]` table, completed by the variables that compactors of Chroma deltas are configured with.

    Raises:
        Misconfigured: a variable is not of its form, or the heartbeat is too slow for the lease.
    """
    own = config.commit
    minutes = _chosen(own.lease_minutes, "LOCK_DURATION_MINUTES", _finite, 1.0)
    heartbeat = _chosen(own.heartbeat_seconds, "HEARTBEAT_INTERVAL_SECONDS", _finite, minutes * 20)
    if not 0 < 2 * heartbeat <= 60 * minutes:
        raise Misconfigured(
            f"a lease of {60 * minutes:g} s that is renewed every {heartbeat:g} s would expire after one lost renewal:"
            " set heartbeat_seconds in [commit] (or HEARTBEAT_INTERVAL_SECONDS) to at most half of lease_minutes (or"
            " LOCK_DURATION_MINUTES)"
        )
    deltas = _chosen(own.deltas, "CHUNK_SIZE", int, DELTAS)
    if not 1 <= deltas <= MOST_DELTAS:
        raise Misconfigured(f"CHUNK_SIZE is {deltas}; it has to be from 1 to {MOST_DELTAS}")
    return CommitRules(
        deltas=deltas,
        delete_processed=_chosen(own.delete_processed, "DELETE_PROCESSED_DELTAS", _switch, default=False),
        delete_intermediate=_chosen(
            own.delete_intermediate, "DELETE_INTERMEDIATE_CHUNKS", _switch, default=True
        ),
        lease_seconds=60 * minutes,
        heartbeat_seconds=heartbeat,
    )


def _chosen(own: Value | None, variable: str, parse: Callable[[str], Value], default: Value) -> Value:
    """Return a setting, or what the environment says, or the default."""
    said = os.environ.get(variable, "")
    if own is not None or not said:
        return default if own is None else own
    try:
        return parse(said)
    except ValueError:
        raise Misconfigured(f"{variable} is {said!r}, which is not of its form") from None


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ValueError(text)
    return number


def _switch(text: str) -> bool:
    known = {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}
    if text.lower() not in known:
        raise ValueError(text)
    return known[text.lower()]


def chroma_token() -> str:
    """Return the token that is sent to a Chroma server (`CHROMA_TOKEN`), or ""."""
    return os.environ.get("CHROMA_TOKEN", "")


def chroma_database() -> tuple[str, str]:
    """Return a tenant of a Chroma server (`CHROMA_TENANT`) and its database (`CHROMA_DATABASE`), or Chroma's own."""
    names = (("CHROMA_TENANT", "default_tenant"), ("CHROMA_DATABASE", "default_database"))
    tenant, database = (os.environ.get(name) or default for name, default in names)
    return tenant, database


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


def source_token(kind: str) -> str:
    """Return the token of the API that sources of a kind are read from (`SLACK_TOKEN`), or ""."""
    name = SOURCE_TOKENS.get(kind, f"{kind.upper().replace('-', '_')}_TOKEN")
    return os.environ.get(name, "").strip()


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
