"""Validation of the settings by pydantic: the records of `project` become its models, field by field."""

from __future__ import annotations

from dataclasses import MISSING, Field, fields
from functools import cache
from typing import TYPE_CHECKING, Annotated, Any, get_type_hints

import pydantic
from pydantic import BaseModel, BeforeValidator, ConfigDict, ValidationError, create_model
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict, SettingsError

from flowbed.errors import Misconfigured
from flowbed.records import serving
from flowbed.records.values import suggestion
from flowbed.settings import project
from flowbed.settings.project import (
    PREFIX,
    CommitSettings,
    PublishSettings,
    QueueSettings,
    ServeSettings,
    Settings,
    SourceSettings,
    SubscriberSettings,
    TierSettings,
    WatchSettings,
    WorkerSettings,
    texts,
)

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

# The modules whose names the annotations of settings use. Each is one of `project.RULES`.
NAMESPACES = (serving, project)


class _Table(BaseModel):
    model_config = ConfigDict(extra="forbid")


class _FileModel(BaseSettings):
    model_config = SettingsConfigDict(
        extra="forbid", env_prefix=PREFIX, env_nested_delimiter="__", env_ignore_empty=True
    )

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],  # noqa: ARG003 - the signature is pydantic's
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,  # noqa: ARG003
        file_secret_settings: PydanticBaseSettingsSource,  # noqa: ARG003
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Give the environment precedence over the file."""
        return env_settings, init_settings


def validated(tables: Mapping[str, Any], path: Path) -> dict[str, Any]:
    """Validate the tables of the file at `path` merged with the environment, and return both together.

    Raises:
        Misconfigured: a setting is unknown or invalid; the message names it.
    """
    try:
        return _model()(**tables).model_dump()
    except SettingsError as error:
        raise Misconfigured(f"invalid FLOWBED_ variable: {error}; write tables as JSON") from error
    except ValidationError as error:
        faults = "; ".join(
            f"{'.'.join(str(part) for part in each['loc'])}: {_message(each)}" for each in error.errors()
        )
        raise Misconfigured(f"invalid setting in {path} or a FLOWBED_ variable: {faults}") from error


@cache
def _model() -> type[_FileModel]:
    """Create the model of the file; record names in annotations resolve to their models."""
    names: dict[str, Any] = {
        **{name: value for module in NAMESPACES for name, value in vars(module).items()},
        "Field": pydantic.Field,
        "Options": Annotated[dict[str, str], BeforeValidator(texts)],
    }
    for record in (
        SourceSettings,
        TierSettings,
        PublishSettings,
        CommitSettings,
        ServeSettings,
        SubscriberSettings,
        WatchSettings,
        QueueSettings,
        WorkerSettings,
    ):
        names[record.__name__] = create_model(record.__name__, __base__=_Table, **_fields(record, names))
    return create_model("Settings", __base__=_FileModel, **_fields(Settings, names))


def _fields(record: type, names: Mapping[str, Any]) -> dict[str, Any]:
    hints = get_type_hints(record, dict(names), include_extras=True)
    return {each.name: (hints[each.name], _default(each, names)) for each in fields(record)}


def _default(setting: Field[Any], names: Mapping[str, Any]) -> Any:
    if setting.default is not MISSING:
        return setting.default
    if setting.default_factory is MISSING:
        return ...
    factory = setting.default_factory
    # A table that is left out has the defaults of its model.
    return pydantic.Field(default_factory=names.get(getattr(factory, "__name__", ""), factory))


def _message(error: Any) -> str:
    if error["type"] == "extra_forbidden":
        *tables, name = error["loc"]
        return f"no such setting{suggestion(str(name), _names([str(each) for each in tables]))}"
    return str(error["msg"])


def _names(tables: Sequence[str]) -> list[str]:
    """Return the names of the settings in a table of the file, such as `serve` or `sources.chat`."""
    records = {
        "sources": SourceSettings,
        "publish": PublishSettings,
        "commit": CommitSettings,
        "serve": TierSettings if "tiers" in tables else ServeSettings,
        "watch": WatchSettings,
        "workers": QueueSettings if "queues" in tables else WorkerSettings,
        "subscribers": SubscriberSettings,
    }
    record = records[tables[0]] if tables else Settings
    return [each.name for each in fields(record)]
