"""Settings of one project: the only reader of `flowbed.toml` and of the environment; yields plain values."""

from __future__ import annotations

import configparser
import contextlib
import json
import os
import re
import tomllib
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, get_args

import tomlkit
from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    TypeAdapter,
    ValidationError,
    field_validator,
)
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict, SettingsError
from tomlkit.exceptions import TOMLKitError

from flowbed.errors import Misconfigured
from flowbed.services import Allowlist, Coalescing, Dimensions, Serving, Tier, TokenArrays

if TYPE_CHECKING:
    from collections.abc import Sequence

FILE = "flowbed.toml"
# What `flowbed init` writes.
BEGINNING = """\
# A Flowbed project. Each setting can also be given as an environment variable: FLOWBED_MODEL, FLOWBED_STORE, ...
# model = "onnx:sentence-transformers/all-MiniLM-L6-v2"
# store = ".flowbed/store"
# ledger = ".flowbed/ledger.db"
# concurrency = 10          # requests in flight
# vector_cache_mb = 2048    # vectors on disk that are never paid for again
# keep_versions = 10        # older versions that can be searched and rolled back to
# keep_days = 7             # ... and all that are younger
"""
NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,62}")
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
OLDER_FALLBACK = "EMBEDDINGS_FALLBACK_CHAIN"
ModelName = Annotated[str, Field(pattern="^[^{}]+$")]
CHAINS: TypeAdapter[dict[str, tuple[str, ...]]] = TypeAdapter(dict[ModelName, tuple[ModelName, ...]])
SWITCHED_ON = ("true", "1", "yes", "on")
SWITCHES = (*SWITCHED_ON, "false", "0", "no", "off")
# Either says where OpenTelemetry's traces go.
TRACES = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")
# Read by prometheus_client when it is loaded: nothing but the environment reaches a process early enough.
COUNTS = "PROMETHEUS_MULTIPROC_DIR"
RESERVED = {"plans", "submissions"}  # keys of the store that are no source's and no collection's


def _texts(value: object) -> object:
    """Take numbers and switches as options have them: as text."""
    if not isinstance(value, dict):
        return value
    return {
        name: str(said).lower() if isinstance(said, bool | int | float) else said
        for name, said in value.items()
    }


Options = Annotated[dict[str, str], BeforeValidator(_texts)]


class SourceSettings(BaseModel):
    """One `[sources.NAME]` table."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    kind: str
    location: str
    collection: str | None = None
    options: dict[str, str | int | float | bool | list[str]] = Field(default_factory=dict)

    @field_validator("collection")
    @classmethod
    def _name(cls, value: str | None) -> str | None:
        return value if value is None else checked_name(value, "collection")


class TierSettings(BaseModel):
    """One `[serve.tiers.NAME]` table: what each key of the tier may use."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    requests_per_minute: Annotated[int, Field(ge=1)] | None = None
    tokens_per_day: Annotated[int, Field(ge=0)] | None = None


class ServeSettings(BaseModel):
    """The `[serve]` table."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    models: list[str] = Field(default_factory=list)
    aliases: dict[str, str] = Field(default_factory=dict)
    fallback: dict[str, list[str]] = Field(default_factory=dict)
    crossing: bool = False
    dimensions: Dimensions | None = None
    allowlist: Allowlist | None = None
    token_arrays: TokenArrays = "cl100k"  # noqa: S105 - tokens of text
    coalescing: Coalescing = "local"
    tiers: dict[str, TierSettings] = Field(default_factory=dict)
    cache_mb: Annotated[int, Field(ge=0)] = 256
    cache_seconds: Annotated[float, Field(gt=0)] = 3600
    redis: str = ""
    model_processes: Annotated[int, Field(ge=0, le=64)] = 0
    body_mb: Annotated[int, Field(ge=1)] = 32
    concurrency: Annotated[int, Field(ge=1)] = 1024


class Settings(BaseSettings):
    """What `flowbed.toml` may say outside its sources, each also an environment variable `FLOWBED_...`."""

    model_config = SettingsConfigDict(
        extra="forbid",
        frozen=True,
        env_prefix="FLOWBED_",
        env_nested_delimiter="__",
        env_ignore_empty=True,
    )

    store: str = ".flowbed/store"
    store_options: dict[str, str] = Field(default_factory=dict)
    ledger: str = ".flowbed/ledger.db"
    model: str = "onnx:sentence-transformers/all-MiniLM-L6-v2"
    model_options: Options = Field(default_factory=dict)
    providers: dict[str, Options] = Field(default_factory=dict, repr=False)  # keys are among them
    prices: dict[str, Annotated[float, Field(ge=0, allow_inf_nan=False)]] = Field(default_factory=dict)
    concurrency: Annotated[int, Field(ge=1, le=1000)] = 10
    vector_cache_mb: Annotated[int, Field(ge=0)] = 2048
    keep_versions: Annotated[int, Field(ge=1)] = 10
    keep_days: Annotated[float, Field(ge=0)] = 7
    sources: dict[str, SourceSettings] = Field(default_factory=dict)
    serve: ServeSettings = ServeSettings()

    @field_validator("sources")
    @classmethod
    def _names(cls, value: dict[str, SourceSettings]) -> dict[str, SourceSettings]:
        for name in value:
            checked_name(name, "source")
        return value

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],  # noqa: ARG003 - the signature is pydantic's
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,  # noqa: ARG003
        file_secret_settings: PydanticBaseSettingsSource,  # noqa: ARG003
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Let the environment win over the file."""
        return env_settings, init_settings


def read_settings(folder: Path) -> Settings:
    """Read the settings of the project in `folder`; one without a file has the defaults.

    Raises:
        Misconfigured: the file is no TOML, or says something that Flowbed does not know; the message says where.

    """
    path = folder / FILE
    try:
        said = tomllib.loads(path.read_text("utf-8"))
    except FileNotFoundError:
        said = {}
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        message = f"{path} is not valid TOML: {error}"
        raise Misconfigured(message) from error
    except OSError as error:
        message = f"{path} cannot be read: {error.strerror}"
        raise Misconfigured(message) from error
    try:
        return Settings(**said)
    except SettingsError as error:
        message = f"a FLOWBED_ variable cannot be used: {error}; tables are written as JSON"
        raise Misconfigured(message) from error
    except ValidationError as error:
        faults = "; ".join(
            f"{'.'.join(str(part) for part in each['loc'])}: {_plain(each)}" for each in error.errors()
        )
        message = f"{path} (or a FLOWBED_ variable) cannot be used: {faults}"
        raise Misconfigured(message) from error


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
    profiles = configparser.RawConfigParser()
    try:
        profiles.read(
            Path(os.environ.get("AWS_SHARED_CREDENTIALS_FILE") or "~/.aws/credentials").expanduser()
        )
    except (configparser.Error, UnicodeDecodeError, OSError):
        return False
    return profiles.has_section("default")


def serving(config: Settings) -> Serving:
    """Say what is served and how, by `[serve]` and the variables of the same meaning that older servers read.

    Raises:
        Misconfigured: one of these variables cannot be used.

    """
    said = config.serve
    models = tuple(said.models) or (config.model,)
    return Serving(
        models=models,
        aliases=said.aliases,
        fallback=_fallback(models) or {model: tuple(chain) for model, chain in said.fallback.items()},
        crossing=said.crossing,
        dimensions=said.dimensions or _older("EMBEDDINGS_DIMENSION_POLICY", get_args(Dimensions)) or "error",
        allowlist=said.allowlist or _older_allowlist(),
        token_arrays=said.token_arrays,
        coalescing=said.coalescing,
        tiers={
            name: Tier(requests=tier.requests_per_minute, tokens=tier.tokens_per_day)
            for name, tier in said.tiers.items()
        },
        cache_bytes=said.cache_mb * 2**20,
        cache_seconds=said.cache_seconds,
        redis=said.redis,
        model_processes=said.model_processes,
        body_bytes=said.body_mb * 2**20,
        concurrency=said.concurrency,
    )


def _fallback(models: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """Read chains of models from `FLOWBED_FALLBACK`, or as older servers have it, from one vendor to others.

    Either is a list, whose first is what the others stand in for, or a JSON object of such lists.
    """
    name = next((each for each in ("FLOWBED_FALLBACK", OLDER_FALLBACK) if os.environ.get(each)), None)
    if name is None:
        return {}
    chains = _chains(name, os.environ[name])
    if name != OLDER_FALLBACK:
        return chains
    return {
        model: tuple(_older_model(each, model) for each in chain)
        for model in models
        for key, chain in chains.items()
        if key in (model, model.partition(":")[0])
    }


def _chains(name: str, text: str) -> dict[str, tuple[str, ...]]:
    first, *others = [each.strip() for each in text.split(",")]
    found: Any = {first: others}
    if text.lstrip().startswith("{"):
        with contextlib.suppress(ValueError):
            found = json.loads(text)
    try:
        return CHAINS.validate_python(found)
    except ValidationError as error:
        message = (
            f"{name}={text} cannot be used; write vendor:model,vendor:model or a JSON object of lists of them"
        )
        raise Misconfigured(message) from error


def _older_model(said: str, model: str) -> str:
    """Write what an older chain says as vendor:model: a vendor alone offers the model of the same name."""
    if ":" in said:
        return said
    return f"{'compatible' if said == 'local_api' else said}:{model.partition(':')[2]}"


def _older_allowlist() -> Allowlist:
    if _older("EMBEDDINGS_ENFORCE_POLICY_STRICT", SWITCHES) in SWITCHED_ON:
        return "strict"
    enforced = _older("EMBEDDINGS_ENFORCE_POLICY", SWITCHES)
    return "enforce" if enforced is None or enforced in SWITCHED_ON else "off"


def _older(name: str, values: Sequence[str]) -> Any:  # noqa: ANN401 - one of `values`, or None
    """Read a variable that older servers have, where it is set."""
    value = os.environ.get(name, "").strip().lower()
    if value and value not in values:
        message = f"{name}={value} cannot be used; write one of: {', '.join(values)}"
        raise Misconfigured(message)
    return value or None


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


def add_source(
    folder: Path, name: str, *, kind: str, location: str, collection: str | None, options: dict[str, Any]
) -> None:
    """Write one more `[sources.NAME]` table into `flowbed.toml`, in the place of any of that name; all else is kept.

    Raises:
        Misconfigured: the name, or the file as it stands, cannot be used.

    """
    checked_name(name, "source")
    if collection is not None:
        checked_name(collection, "collection")
    read_settings(folder)  # a file that cannot be read is not written over
    path = folder / FILE
    try:
        file = tomlkit.parse(path.read_text("utf-8")) if path.exists() else tomlkit.document()
    except TOMLKitError as error:
        message = f"{path} is not valid TOML: {error}"
        raise Misconfigured(message) from error
    table = tomlkit.table()
    table["kind"] = kind
    table["location"] = location
    if collection is not None:
        table["collection"] = collection
    if options:
        table["options"] = options
    sources = file.setdefault("sources", tomlkit.table(is_super_table=True))
    sources[name] = table
    write_whole(path, tomlkit.dumps(file))


def write_whole(path: Path, text: str) -> None:
    """Write a file so that it is the old or the new one, never half of it.

    Raises:
        Misconfigured: the folder cannot be written to.

    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        draft = path.with_name(f".{path.name}.{os.getpid()}")
        with draft.open("w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        draft.replace(path)
    except OSError as error:
        message = f"{path} cannot be written: {error.strerror}"
        raise Misconfigured(message) from error


def checked_name(name: str, what: str) -> str:
    """Let a name through that can be part of a key.

    Raises:
        Misconfigured: it cannot.

    """
    if not NAME.fullmatch(name) or name in RESERVED:
        message = (
            f"{what} name {name!r} cannot be used: take small letters, digits, - and _, starting with a letter or"
            f" digit, and not {' or '.join(sorted(RESERVED))}"
        )
        raise Misconfigured(message)
    return name


def _plain(fault: Any) -> str:  # noqa: ANN401 - pydantic's own record
    if fault["type"] == "extra_forbidden":
        return "no such setting"
    return str(fault["msg"])
