"""What a project may say: the tables of `flowbed.toml`, each also a variable `FLOWBED_...`, read and checked."""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import tomllib
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from flowbed.errors import Misconfigured

if TYPE_CHECKING:
    from collections.abc import Mapping

    # What `checking` reads the records by, which a file that it has passed does without.
    from pydantic import Field

    from flowbed.records.serving import Allowlist, Coalescing, DimensionPolicy, TokenArrays

    Options = dict[str, str]

FILE = "flowbed.toml"
NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,62}")
RESERVED = {
    "files",
    "jobs",
    "plans",
    "submissions",
}  # keys of the store that are no source's and no collection's


# Below the project's folder: the fingerprint of the file that was found to say nothing wrong.
PASSED = ".flowbed/settings.passed"
PREFIX = "FLOWBED_"


@dataclass(frozen=True, kw_only=True)
class SourceSettings:
    """One `[sources.NAME]` table."""

    kind: str
    location: str
    collection: str | None = None
    options: dict[str, str | int | float | bool | list[str]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Let no collection through that can be no part of a key."""
        if self.collection is not None:
            checked_name(self.collection, "collection")


@dataclass(frozen=True, kw_only=True)
class TierSettings:
    """One `[serve.tiers.NAME]` table: what each key of the tier may use."""

    requests_per_minute: Annotated[int, Field(ge=1)] | None = None
    tokens_per_day: Annotated[int, Field(ge=0)] | None = None
    queued_tokens: Annotated[int, Field(ge=0)] | None = None
    stored_mb: Annotated[int, Field(ge=0)] | None = None


@dataclass(frozen=True, kw_only=True)
class ServeSettings:
    """The `[serve]` table."""

    models: list[str] = field(default_factory=list)
    aliases: dict[str, str] = field(default_factory=dict)
    fallback: dict[str, list[str]] = field(default_factory=dict)
    crossing: bool = False
    dimensions: DimensionPolicy | None = None
    allowlist: Allowlist | None = None
    token_arrays: TokenArrays = "cl100k"  # noqa: S105 - tokens of text
    coalescing: Coalescing = "local"
    tiers: dict[str, TierSettings] = field(default_factory=dict)
    cache_mb: Annotated[int, Field(ge=0)] = 256
    cache_seconds: Annotated[float, Field(gt=0)] = 3600
    redis: str = ""
    body_mb: Annotated[int, Field(ge=1)] = 32
    concurrency: Annotated[int, Field(ge=1)] = 1024


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What `flowbed.toml` may say outside its sources, each also an environment variable `FLOWBED_...`."""

    store: str = ".flowbed/store"
    store_options: dict[str, str] = field(default_factory=dict)
    ledger: str = ".flowbed/ledger.db"
    model: str = "onnx:sentence-transformers/all-MiniLM-L6-v2"
    model_options: Options = field(default_factory=dict)
    providers: dict[str, Options] = field(default_factory=dict, repr=False)  # keys are among them
    prices: dict[str, Annotated[float, Field(ge=0, allow_inf_nan=False)]] = field(default_factory=dict)
    concurrency: Annotated[int, Field(ge=1, le=1000)] = 10
    vector_cache_mb: Annotated[int, Field(ge=0)] = 2048
    keep_versions: Annotated[int, Field(ge=1)] = 10
    keep_days: Annotated[float, Field(ge=0)] = 7
    lane: Literal["auto", "realtime", "batch"] = "auto"
    deadline_hours: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = None
    sources: dict[str, SourceSettings] = field(default_factory=dict)
    serve: ServeSettings = field(default_factory=ServeSettings)

    def __post_init__(self) -> None:
        """Let no source through whose name can be no part of a key."""
        for name in self.sources:
            checked_name(name, "source")


def read_settings(folder: Path) -> Settings:
    """Read the settings of the project in `folder`; one without a file has the defaults.

    Raises:
        Misconfigured: the file is no TOML, or says something that Flowbed does not know; the message says where.
    """
    path = folder / FILE
    try:
        body = path.read_bytes()
        said = tomllib.loads(body.decode())
    except FileNotFoundError:
        body, said = b"", {}
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise Misconfigured(f"{path} is not valid TOML: {error}") from error
    except OSError as error:
        raise Misconfigured(f"{path} cannot be read: {error.strerror}") from error
    alone = not any(name.upper().startswith(PREFIX) for name in os.environ)
    passed = folder / PASSED
    if alone and _has_passed(body, passed):
        return _settings(said)
    # pydantic and its own settings take a fifth of a second to load and to learn these records.
    from flowbed.settings.checking import checked

    found = _settings(checked(said, path))
    # Where checking has changed nothing (such as a number that was said as text), there is nothing to check next time.
    if alone and _same(asdict(_settings(said)), asdict(found)):
        _pass(body, passed)
    return found


def texts(value: object) -> object:
    """Take numbers and switches as options have them: as text."""
    if not isinstance(value, dict):
        return value
    return {
        name: str(said).lower() if isinstance(said, bool | int | float) else said
        for name, said in value.items()
    }


def _settings(said: Mapping[str, Any]) -> Settings:
    """Make the records of what was said, in tables, and has been checked."""
    serve = said.get("serve", {})
    tables = {
        "model_options": texts(said.get("model_options", {})),
        "providers": {name: texts(each) for name, each in said.get("providers", {}).items()},
        "sources": {name: SourceSettings(**each) for name, each in said.get("sources", {}).items()},
        "serve": ServeSettings(
            **{
                **serve,
                "tiers": {name: TierSettings(**each) for name, each in serve.get("tiers", {}).items()},
            }
        ),
    }
    return Settings(**{**said, **tables})


def _same(said: Any, found: Any) -> bool:  # what tables hold
    """Tell whether checking left all as it was said; where a number may have a point, one without is as good."""
    if isinstance(found, dict) and isinstance(said, dict):
        return said.keys() == found.keys() and all(_same(said[name], found[name]) for name in found)
    return bool(said == found) and (type(said) is type(found) or (type(said), type(found)) == (int, float))


def _has_passed(body: bytes, passed: Path) -> bool:
    try:
        return passed.read_text("ascii") == _fingerprint(body)
    except (OSError, UnicodeDecodeError):
        return False


def _pass(body: bytes, passed: Path) -> None:
    # Half of it is no fingerprint, and where it cannot be written, the file is checked again next time.
    with contextlib.suppress(OSError):
        passed.write_text(_fingerprint(body), "ascii")


def _fingerprint(body: bytes) -> str:
    """64 hex digits over the file and over what it was checked against, which is this module."""
    return hashlib.sha256(body + b"\0" + Path(__file__).read_bytes()).hexdigest()


def checked_name(name: str, what: str) -> str:
    """Let a name through that can be part of a key.

    Raises:
        Misconfigured: it cannot.
    """
    if not NAME.fullmatch(name) or name in RESERVED:
        raise Misconfigured(
            f"{what} name {name!r} cannot be used: take small letters, digits, - and _, starting with a letter or"
            f" digit, and not {' or '.join(sorted(RESERVED))}"
        )
    return name
