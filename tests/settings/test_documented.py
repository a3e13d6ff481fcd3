"""The tables of docs/configuration.md and docs/chroma.md against the records of the settings."""

from __future__ import annotations

import re
from dataclasses import MISSING, Field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flowbed.settings import Settings, commit_rules, serving
from flowbed.settings.project import (
    CommitSettings,
    PublishSettings,
    QueueSettings,
    ServeSettings,
    SourceSettings,
    SubscriberSettings,
    TierSettings,
    WatchSettings,
    WorkerSettings,
)

if TYPE_CHECKING:
    import pytest

DOCS = Path(__file__).parents[2] / "docs"
CONFIGURATION, CHROMA = ((DOCS / name).read_text("utf-8") for name in ("configuration.md", "chroma.md"))

# Defaults that a table describes in words, with the words.
DESCRIBED = {
    "model_cache": "the user's cache, `~/.cache/flowbed/models`",
    "prices": "the vendors' price lists",
    "models": "the project's `model`",
    "collections": "the one called as the publication",
    "options": "none",
}


def section(page: str, title: str) -> str:
    """Return the text below a heading, up to the next one of its level."""
    level = title.partition(" ")[0]
    return page.partition(f"\n{title}\n")[2].partition(f"\n{level} ")[0]


def documented(text: str, header: str) -> dict[str, str]:
    """Return the default of each setting in the table below `header`; one row may have several, in order."""
    found: dict[str, str] = {}
    table = text.partition(f"{header}\n")[2].partition("\n\n")[0]
    for line in table.splitlines()[1:]:
        first, default = (cell.strip() for cell in line.split(" | ")[:2])
        names = re.findall(r"`(\w+)`", first)
        values = [default] if len(names) == 1 else default.split(", ")
        found |= dict(zip(names, values, strict=True))
    return found


def written(default: Any) -> str:
    """Return a default as the tables write it."""
    if default in (None, "", {}, [], ()):
        return "none"
    if isinstance(default, bool):
        return f"`{str(default).lower()}`"
    return f"`{default}`" if isinstance(default, str) else f"{default:g}"


def default_of(setting: Field[Any]) -> Any:
    if setting.default is not MISSING:
        return setting.default
    return None if setting.default_factory is MISSING else setting.default_factory()


def test_every_setting_of_a_project_is_documented_with_its_default() -> None:
    table = documented(section(CONFIGURATION, "## Settings"), "| setting | default | meaning |")
    expected = {
        each.name: DESCRIBED.get(each.name)
        or ("none" if each.name in {"commit", "serve", "watch", "workers"} else written(default_of(each)))
        for each in fields(Settings)
    }
    assert table == expected


def test_every_setting_of_the_server_is_documented_with_its_default(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("EMBEDDINGS_DIMENSION_POLICY", "EMBEDDINGS_ENFORCE_POLICY"):
        monkeypatch.delenv(name, raising=False)
    table = documented(section(CONFIGURATION, "## Serving"), "| setting | default | meaning |")
    # Where the record has None, variables of older servers count before the default.
    used = serving(Settings())
    expected = {
        each.name: DESCRIBED.get(each.name)
        or written(default_of(each) if each.default is not None else getattr(used, each.name))
        for each in fields(ServeSettings)
    }
    assert {name: value.replace(",", "") for name, value in table.items()} == expected


def test_every_setting_of_a_tier_and_of_a_source_is_named() -> None:
    tiers = re.search(r"^\| `tiers` .*$", CONFIGURATION, re.MULTILINE)
    assert tiers is not None
    assert {f"`{each.name}`" for each in fields(TierSettings) if each.name != "write"} <= set(
        re.findall(r"`\w+`", tiers[0])
    )
    assert "`write = true`" in tiers[0]
    sources = section(CONFIGURATION, "## Sources")
    assert {f"`{each.name}`" for each in fields(SourceSettings)} <= set(re.findall(r"`\w+`", sources))


def test_every_setting_of_a_watch_is_documented_with_its_default() -> None:
    table = documented(section(CONFIGURATION, "## Watching"), "| setting of `[watch]` | default | meaning |")
    assert table == {each.name: written(default_of(each)) for each in fields(WatchSettings)}


def test_every_setting_of_workers_is_documented_with_its_default() -> None:
    page = (DOCS / "workers.md").read_text("utf-8")
    table = documented(page, "| setting of `[workers]` | default | meaning |")
    assert table == {each.name: written(default_of(each)) for each in fields(WorkerSettings)}
    assert {f"`{each.name}`" for each in fields(QueueSettings)} <= set(re.findall(r"`\w+`", page))


def test_every_setting_of_a_subscriber_is_documented_with_its_default() -> None:
    table = documented(
        section(CONFIGURATION, "## Subscribers"), "| setting of `[[subscribers]]` | default | meaning |"
    )
    expected = {each.name: written(default_of(each)) for each in fields(SubscriberSettings)}
    assert table == {name: default for name, default in expected.items() if name != "name"}


def test_every_setting_of_a_publication_is_documented_with_its_default() -> None:
    table = documented(CHROMA, "| setting | default | meaning |")
    for each in fields(PublishSettings):
        assert each.name in table
        if each.name in {"every", "collections"}:
            assert table[each.name] == DESCRIBED.get(each.name, written(default_of(each)))


def test_every_setting_of_commits_is_documented_with_its_default(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (
        "CHUNK_SIZE",
        "DELETE_PROCESSED_DELTAS",
        "DELETE_INTERMEDIATE_CHUNKS",
        "LOCK_DURATION_MINUTES",
        "HEARTBEAT_INTERVAL_SECONDS",
    ):
        monkeypatch.delenv(name, raising=False)
    rows = re.findall(r"^\| `[A-Z_]+` \| `commit\.(\w+)` \| ([^|]+) \|", CHROMA, re.MULTILINE)
    used = commit_rules(Settings())
    assert used.heartbeat_seconds == used.lease_seconds / 3
    assert dict(rows) == {
        "deltas": str(used.deltas),
        "delete_processed": str(used.delete_processed).lower(),
        "delete_intermediate": str(used.delete_intermediate).lower(),
        "lease_minutes": f"{used.lease_seconds / 60:g}",
        "heartbeat_seconds": "a third of the lease",
    }
    assert {name for name, _ in rows} == {each.name for each in fields(CommitSettings)}
