"""Settings of one project: the only reader of `flowbed.toml` and of the environment; yields plain values."""

from __future__ import annotations

import configparser
import os
import re
import tomllib
from pathlib import Path
from typing import Annotated, Any

import tomlkit
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict, SettingsError
from tomlkit.exceptions import TOMLKitError

from flowbed.errors import Misconfigured

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
RESERVED = {"plans", "submissions"}  # keys of the store that are no source's and no collection's


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
    model_options: dict[str, str] = Field(default_factory=dict)
    concurrency: Annotated[int, Field(ge=1, le=1000)] = 10
    vector_cache_mb: Annotated[int, Field(ge=0)] = 2048
    keep_versions: Annotated[int, Field(ge=1)] = 10
    keep_days: Annotated[float, Field(ge=0)] = 7
    sources: dict[str, SourceSettings] = Field(default_factory=dict)

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


def _has_default_profile() -> bool:
    profiles = configparser.RawConfigParser()
    try:
        profiles.read(
            Path(os.environ.get("AWS_SHARED_CREDENTIALS_FILE") or "~/.aws/credentials").expanduser()
        )
    except (configparser.Error, UnicodeDecodeError, OSError):
        return False
    return profiles.has_section("default")


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
