"""Settings of a project: the tables of `flowbed.toml`, each also a variable `FLOWBED_...`, read and validated."""

from __future__ import annotations

import contextlib
import hashlib
import os
import tomllib
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from flowbed.errors import Misconfigured
from flowbed.records.names import is_name, rule
from flowbed.storage.atomic import make_private_file

if TYPE_CHECKING:
    from collections.abc import Mapping

    # Only `checking` resolves these annotations; a file that has passed before needs no pydantic.
    from pydantic import Field

    from flowbed.records.serving import Allowlist, ChromaWrites, Coalescing, DimensionPolicy, TokenArrays

    Options = dict[str, str]

FILE = "flowbed.toml"
# Holds the fingerprint of the last file that passed validation.
PASSED = ".flowbed/settings.passed"
PREFIX = "FLOWBED_"
PACKAGE = Path(__file__).parent.parent
# What decides which settings are valid, below the package: a change of any of them validates every file again.
RULES = ("records/names.py", "records/serving.py", "settings/checking.py", "settings/project.py")


@dataclass(frozen=True, kw_only=True)
class SourceSettings:
    """One `[sources.NAME]` table."""

    kind: str
    location: str
    collection: str | None = None
    every: Annotated[str, Field(pattern="^([1-9][0-9]{0,8}[smhd])?$")] = ""
    cron: str = ""
    timezone: str = ""
    options: dict[str, str | int | float | bool | list[str]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Refuse a collection name that cannot be part of a key."""
        if self.collection is not None:
            checked_name(self.collection, "collection")


@dataclass(frozen=True, kw_only=True)
class TierSettings:
    """One `[serve.tiers.NAME]` table: the limits of each key of the tier."""

    requests_per_minute: Annotated[int, Field(ge=1)] | None = None
    tokens_per_day: Annotated[int, Field(ge=0)] | None = None
    embeddings_per_day: Annotated[int, Field(ge=0)] | None = None
    queued_tokens: Annotated[int, Field(ge=0)] | None = None
    stored_mb: Annotated[int, Field(ge=0)] | None = None
    write: bool = False


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
    origins: tuple[Annotated[str, Field(pattern="^https?://[^/*]+/?$")], ...] = ()
    chroma_writes: ChromaWrites = "off"
    priority_seconds: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 20
    execute_jobs: bool = True


@dataclass(frozen=True, kw_only=True)
class PublishSettings:
    """One `[publish.NAME]` table."""

    kind: str
    every: Annotated[str, Field(pattern="^(commit|manual|[0-9]+[smhd])$")] = "commit"
    collections: list[str] = field(default_factory=list)
    options: Options = field(default_factory=dict, repr=False)  # may contain a token


@dataclass(frozen=True, kw_only=True)
class CommitSettings:
    """The `[commit]` table; what it leaves out comes from variables of other compactors, see `settings.environment`."""

    deltas: Annotated[int, Field(ge=1, le=64)] | None = None
    delete_processed: bool | None = None
    delete_intermediate: bool | None = None
    lease_minutes: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = None
    heartbeat_seconds: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = None


@dataclass(frozen=True, kw_only=True)
class WatchSettings:
    """The `[watch]` table."""

    every: Annotated[str, Field(pattern="^[1-9][0-9]{0,8}[smhd]$")] = "1h"
    list_every: Annotated[str, Field(pattern="^[1-9][0-9]{0,8}[smhd]$")] = "10m"
    polling: bool = False
    webhook: str = field(default="", repr=False)  # contains a secret


@dataclass(frozen=True, kw_only=True)
class QueueSettings:
    """One `[workers.queues.NAME]` table: how many tasks of a queue run at once, in one worker and in all."""

    worker: Annotated[int, Field(ge=1, le=1000)] | None = None
    everywhere: Annotated[int, Field(ge=1)] | None = None


@dataclass(frozen=True, kw_only=True)
class WorkerSettings:
    """The `[workers]` table; times are in seconds."""

    engine: Literal["auto", "local", "durable"] = "auto"
    connections: Annotated[int, Field(ge=2, le=100)] = 5
    beat_seconds: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 2
    dead_seconds: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 10
    sweep_seconds: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 5
    poll_seconds: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 0.2
    grace_seconds: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 25
    queues: dict[str, QueueSettings] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class SubscriberSettings:
    """One `[[subscribers]]` table."""

    name: str
    command: list[str] = field(default_factory=list)
    webhook: str = field(default="", repr=False)  # may contain a secret
    copy_to: str = ""
    sources: list[str] = field(default_factory=list)
    timeout: Annotated[str, Field(pattern="^[1-9][0-9]{0,8}[smhd]$")] = "10m"

    def __post_init__(self) -> None:
        """Refuse a name that cannot be part of a key, and one that gets batch files in no way, or in several."""
        checked_name(self.name, "subscriber")
        if sum(map(bool, (self.command, self.webhook, self.copy_to))) != 1:
            raise Misconfigured(f"subscriber {self.name!r} needs one of command, webhook and copy_to")


@dataclass(frozen=True, kw_only=True)
class Settings:
    """The whole of `flowbed.toml`; every setting is also an environment variable `FLOWBED_...`."""

    store: str = ".flowbed/store"
    store_options: dict[str, str] = field(default_factory=dict)
    ledger: str = ".flowbed/ledger.db"
    ledger_connections: Annotated[int, Field(ge=3, le=100)] = 5
    model: str = "onnx:sentence-transformers/all-MiniLM-L6-v2"
    model_options: Options = field(default_factory=dict)
    model_cache: str = ""
    providers: dict[str, Options] = field(default_factory=dict, repr=False)  # may contain keys
    prices: dict[str, Annotated[float, Field(ge=0, allow_inf_nan=False)]] = field(default_factory=dict)
    concurrency: Annotated[int, Field(ge=1, le=1000)] = 10
    vector_cache_mb: Annotated[int, Field(ge=0)] = 2048
    keep_versions: Annotated[int, Field(ge=1)] = 10
    keep_days: Annotated[float, Field(ge=0)] = 7
    full_text: bool = False
    reranker: str = ""
    lane: Literal["auto", "realtime", "batch"] = "auto"
    batch_compression: Literal["none", "zstd"] = "none"
    delta_format: Literal["arrow", "chroma", "chroma-files"] = "arrow"
    deadline_hours: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = None
    sources: dict[str, SourceSettings] = field(default_factory=dict)
    publish: dict[str, PublishSettings] = field(default_factory=dict)
    commit: CommitSettings = field(default_factory=CommitSettings)
    serve: ServeSettings = field(default_factory=ServeSettings)
    watch: WatchSettings = field(default_factory=WatchSettings)
    workers: WorkerSettings = field(default_factory=WorkerSettings)
    subscribers: list[SubscriberSettings] = field(default_factory=list)

    def __post_init__(self) -> None:
        """Refuse a name of a source or of a publication that cannot be part of a key."""
        for name in self.sources:
            checked_name(name, "source")
        for name in self.publish:
            checked_name(name, "publication")
        _refuse_shared(self.publish)
        names = [each.name for each in self.subscribers]
        if len(set(names)) < len(names):
            raise Misconfigured(f"two subscribers have one name; there are: {', '.join(sorted(names))}")


def read_settings(folder: Path) -> Settings:
    """Read the settings of the project in `folder`; without a file, return the defaults.

    Raises:
        Misconfigured: the file is not TOML, or a setting is unknown or invalid; the message names it.
    """
    path = folder / FILE
    try:
        body = path.read_bytes()
        tables = tomllib.loads(body.decode("utf-8-sig"))
    except FileNotFoundError:
        body, tables = b"", {}
    except (ValueError, RecursionError) as error:  # also bytes, numbers and depths that no parser takes
        raise Misconfigured(f"{path} is not valid TOML: {error}") from error
    except OSError as error:
        raise Misconfigured(f"{path} cannot be read: {error.strerror}") from error
    from_file_only = not any(name.upper().startswith(PREFIX) for name in os.environ)
    passed = folder / PASSED
    if from_file_only and _has_passed(body, passed):
        return _completed(_settings(tables))
    # Importing pydantic and building its models takes a fifth of a second.
    from flowbed.settings.checking import validated

    settings = _settings(validated(tables, path))
    # Remember the file only if validation changed nothing, such as a number written as text.
    if from_file_only and _same(asdict(_settings(tables)), asdict(settings)):
        _pass(body, passed)
    return _completed(settings)


def _completed(settings: Settings) -> Settings:
    from flowbed.settings.aws import as_deployed

    return as_deployed(_at_home(settings))


def _at_home(settings: Settings) -> Settings:
    """Write out `~`, the home folder, in the paths of the store and the ledger."""
    if "~" not in settings.store + settings.ledger:
        return settings
    return replace(settings, store=_path("store", settings.store), ledger=_path("ledger", settings.ledger))


def _path(name: str, value: str) -> str:
    """Return a path without `~`.

    Raises:
        Misconfigured: there is no such user.
    """
    path = value.removeprefix("sqlite:///")
    if not path.startswith("~"):
        return value
    try:
        return str(Path(path).expanduser())
    except RuntimeError as error:
        raise Misconfigured(f"{name} = {value!r}: {error}; write the whole path") from error


def texts(value: object) -> object:
    """Turn numbers and switches into text: options are text."""
    if not isinstance(value, dict):
        return value
    return {
        name: str(option).lower() if isinstance(option, bool | int | float) else option
        for name, option in value.items()
    }


def _settings(tables: Mapping[str, Any]) -> Settings:
    """Create the records from validated tables."""
    serve = tables.get("serve", {})
    tiers = {name: TierSettings(**tier) for name, tier in serve.get("tiers", {}).items()}
    workers = tables.get("workers", {})
    queues = {name: QueueSettings(**queue) for name, queue in workers.get("queues", {}).items()}
    records = {
        "model_options": texts(tables.get("model_options", {})),
        "providers": {name: texts(options) for name, options in tables.get("providers", {}).items()},
        "sources": {name: SourceSettings(**source) for name, source in tables.get("sources", {}).items()},
        "publish": {
            name: PublishSettings(**{**each, "options": texts(each.get("options", {}))})
            for name, each in tables.get("publish", {}).items()
        },
        "commit": CommitSettings(**tables.get("commit", {})),
        "serve": ServeSettings(**{**serve, "tiers": tiers}),
        "watch": WatchSettings(**tables.get("watch", {})),
        "workers": WorkerSettings(**{**workers, "queues": queues}),
        "subscribers": [SubscriberSettings(**each) for each in tables.get("subscribers", [])],
    }
    return Settings(**{**tables, **records})


def _refuse_shared(publish: Mapping[str, PublishSettings]) -> None:
    """Refuse two publications that would replace each other's snapshots or files with every commit.

    Raises:
        Misconfigured: there are two; the message names them.
    """
    taken: list[tuple[str, str, str]] = []
    for name, each in publish.items():
        if each.kind == "chroma-server":
            continue  # each server, or each name on one, is another place
        for collection in each.collections or [name]:
            for kind, other, published in taken:
                if kind == each.kind and (published == collection or "*" in {published, collection}):
                    raise Misconfigured(
                        f"publish.{other} and publish.{name} both publish"
                        f" {published if collection == '*' else collection} as {kind}, in the same place: remove one,"
                        " or name other collections"
                    )
        taken += [(each.kind, name, collection) for collection in each.collections or [name]]


def _same(written: Any, valid: Any) -> bool:
    """Tell whether validation left the values unchanged; an int in place of a float counts as unchanged."""
    if isinstance(valid, dict) and isinstance(written, dict):
        return written.keys() == valid.keys() and all(_same(written[name], valid[name]) for name in valid)
    return bool(written == valid) and (
        type(written) is type(valid) or (type(written), type(valid)) == (int, float)
    )


def _has_passed(body: bytes, passed: Path) -> bool:
    try:
        return passed.read_text("ascii") == fingerprint(body)
    except (OSError, UnicodeDecodeError):
        return False


def _pass(body: bytes, passed: Path) -> None:
    # A partial write matches no fingerprint; without a write, the file is validated again next time.
    with contextlib.suppress(OSError):
        if passed.parent.is_dir():
            make_private_file(passed)
        passed.write_text(fingerprint(body), "ascii")


def fingerprint(body: bytes, package: Path = PACKAGE) -> str:
    """64 hex digits over the file and the source of every module that decides what is valid."""
    return hashlib.sha256(b"\0".join([body, *((package / name).read_bytes() for name in RULES)])).hexdigest()


def checked_name(name: str, what: str) -> str:
    """Return a name that can be part of a key.

    Raises:
        Misconfigured: the name cannot.
    """
    if not is_name(name):
        raise Misconfigured(f"{what} name {name!r} cannot be used: {rule()}")
    return name
