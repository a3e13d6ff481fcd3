"""What a project says, checked by pydantic: the records of `project` are its models, field by field."""

from __future__ import annotations

from dataclasses import MISSING, Field, fields
from typing import TYPE_CHECKING, Annotated, Any, get_type_hints

import pydantic
from pydantic import BaseModel, BeforeValidator, ConfigDict, ValidationError, create_model
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict, SettingsError

from flowbed.errors import Misconfigured
from flowbed.records import serving
from flowbed.settings import project
from flowbed.settings.project import PREFIX, ServeSettings, Settings, SourceSettings, TierSettings, texts

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path


class _Table(BaseModel):
    model_config = ConfigDict(extra="forbid")


class _File(BaseSettings):
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
        """Let the environment win over the file."""
        return env_settings, init_settings


def checked(said: Mapping[str, Any], path: Path) -> dict[str, Any]:
    """Check what the file at `path` says, in tables, and what the environment does; give both together.

    Raises:
        Misconfigured: something is said that Flowbed does not know; the message says where.
    """
    try:
        return _file()(**said).model_dump()
    except SettingsError as error:
        raise Misconfigured(
            f"a FLOWBED_ variable cannot be used: {error}; tables are written as JSON"
        ) from error
    except ValidationError as error:
        faults = "; ".join(
            f"{'.'.join(str(part) for part in each['loc'])}: {_plain(each)}" for each in error.errors()
        )
        raise Misconfigured(f"{path} (or a FLOWBED_ variable) cannot be used: {faults}") from error


def _file() -> type[_File]:
    """Make the model of the file; the names of records in annotations mean the models of these."""
    names: dict[str, Any] = {
        **vars(serving),
        **vars(project),
        "Field": pydantic.Field,
        "Options": Annotated[dict[str, str], BeforeValidator(texts)],
    }
    for record in (SourceSettings, TierSettings, ServeSettings):
        names[record.__name__] = create_model(record.__name__, __base__=_Table, **_fields(record, names))
    return create_model("Settings", __base__=_File, **_fields(Settings, names))


def _fields(record: type, names: Mapping[str, Any]) -> dict[str, Any]:
    hints = get_type_hints(record, dict(names), include_extras=True)
    return {each.name: (hints[each.name], _default(each, names)) for each in fields(record)}


def _default(said: Field[Any], names: Mapping[str, Any]) -> Any:  # whatever the field is
    if said.default is not MISSING:
        return said.default
    if said.default_factory is MISSING:
        return ...
    made = said.default_factory
    return pydantic.Field(default_factory=names["ServeSettings"] if made is ServeSettings else made)


def _plain(fault: Any) -> str:  # pydantic's own record
    if fault["type"] == "extra_forbidden":
        return "no such setting"
    return str(fault["msg"])
