"""The variables of other packages: how stores and providers are reached, and what is measured."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from flowbed.settings.project import Settings

# What the AWS command line and libraries read too: of each option of an s3:// store, in order.
STANDARD = {
    "endpoint": ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL"),
    "region": ("AWS_REGION", "AWS_DEFAULT_REGION"),
    "profile": ("AWS_PROFILE", "AWS_DEFAULT_PROFILE"),
}
# With any of these, S3 gets its keys from the environment or from a role, and files of profiles are not looked at.
KEYS = (
    "AWS_ACCESS_KEY_ID",
    "AWS_WEB_IDENTITY_TOKEN_FILE",
    "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI",
    "AWS_CONTAINER_CREDENTIALS_FULL_URI",
)
# What the vendors' own packages read too: of each option of a provider, in order.
PROVIDERS: dict[str, dict[str, tuple[str, ...]]] = {
    "cohere": {"api_key": ("CO_API_KEY", "COHERE_API_KEY"), "base_url": ("CO_API_URL",)},
    "huggingface": {"api_key": ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN")},
    "openai": {
        "api_key": ("OPENAI_API_KEY",),
        "base_url": ("OPENAI_BASE_URL",),
        "organization": ("OPENAI_ORG_ID",),
        "project": ("OPENAI_PROJECT_ID",),
    },
    "voyage": {"api_key": ("VOYAGE_API_KEY",)},
}
OVER_HTTP = {*PROVIDERS, "compatible"}
PROXY = {
    "proxy": ("HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy"),
    "no_proxy": ("NO_PROXY", "no_proxy"),
}
# Either says where OpenTelemetry's traces go.
TRACES = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")
# Read by prometheus_client when it is loaded: nothing but the environment reaches a process early enough.
COUNTS = "PROMETHEUS_MULTIPROC_DIR"


def store_options(config: Settings) -> dict[str, str]:
    """Say how the store is reached: as `store_options` has it, and else, for s3://, as the `AWS_*` variables do."""
    if not config.store.startswith("s3://"):
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
    """Say how a model's provider is reached: the model as vendor:name, and the options of its `[providers.NAME]`.

    A provider of another name than its vendor's says `vendor`. Only the vendor's own table takes what is missing from
    the variables of the vendor's packages: a key is not sent to an address that it was not made for.
    """
    provider, _, name = model.partition(":")
    said = config.providers.get(provider, {})
    vendor = said.get("vendor", provider)
    variables = {**PROVIDERS.get(provider, {}), **(PROXY if vendor in OVER_HTTP else {})}
    found = {
        option: next((os.environ[each] for each in names if os.environ.get(each)), "")
        for option, names in variables.items()
    }
    options = {**{option: value for option, value in found.items() if value}, **said}
    options.pop("vendor", None)
    if name in config.prices:
        options.setdefault("price", str(config.prices[name]))
    return f"{vendor}:{name}", options


def _has_default_profile() -> bool:
    import configparser  # only the files of profiles need it

    profiles = configparser.RawConfigParser()
    try:
        profiles.read(
            Path(os.environ.get("AWS_SHARED_CREDENTIALS_FILE") or "~/.aws/credentials").expanduser()
        )
    except (configparser.Error, UnicodeDecodeError, OSError):
        return False
    return profiles.has_section("default")


def shared_counts() -> str:
    """Name the folder in which the processes of one server count together, as prometheus_client has it; or nothing."""
    return os.environ.get(COUNTS, "")


def share_counts(folder: str) -> None:
    """Have the processes that this one starts count together in a folder, unless they are told another."""
    os.environ.setdefault(COUNTS, folder)


def traces_wanted() -> bool:
    """Tell whether OpenTelemetry's variables ask for traces; where they go, its own package reads from them."""
    if os.environ.get("OTEL_SDK_DISABLED", "").lower() == "true":
        return False
    exporter = os.environ.get("OTEL_TRACES_EXPORTER", "")
    return exporter != "none" and any((exporter, *(os.environ.get(name) for name in TRACES)))
