"""What a project may say: the tables of `flowbed.toml`, each also a variable `FLOWBED_...`, read and checked."""

from __future__ import annotations

import re
import tomllib
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, field_validator
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict, SettingsError

from flowbed.errors import Misconfigured
from flowbed.services import Allowlist, Coalescing, Dimensions, TokenArrays  # noqa: TC001 - pydantic reads them

if TYPE_CHECKING:
    from pathlib import Path

FILE = "flowbed.toml"
NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,62}")
RESERVED = {
    "files",
    "jobs",
    "plans",
    "submissions",
}  # keys of the store that are no source's and no collection's


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
    queued_tokens: Annotated[int, Field(ge=0)] | None = None


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
    lane: Literal["auto", "realtime", "batch"] = "auto"
    deadline_hours: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = None
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
