"""The commands about API keys."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from flowbed.bed import aopen

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.cli.conftest import Called


def test_keys_create_list_revoke_show_the_secret_once(project: Path, flowbed: Callable[..., Called]) -> None:
    flowbed("init")
    settings = project / "flowbed.toml"
    settings.write_text(settings.read_text() + '\n[serve.aliases]\nsmall = "seeded:32"\n')
    made = flowbed("keys", "create", "app", "--model", "small", "--admin", "--json").json
    secret = made.pop("secret")
    listed = flowbed("keys", "list", "--json")
    (row,) = listed.json["keys"]
    assert row == {**made, "tokens_today": 0}
    assert (row["name"], row["models"], row["admin"], row["tier"]) == ("app", ["small"], True, "default")
    assert secret not in listed.out
    assert flowbed("keys", "revoke", made["id"]).status == 0
    assert flowbed("keys", "list", "--json").json["keys"][0]["revoked"]


def test_keys_create_prints_only_the_secret_on_standard_output(
    project: Path, flowbed: Callable[..., Called]
) -> None:
    """Scripts can read it; the list shows the key's limits."""
    (project / "flowbed.toml").write_text("[serve.tiers.free]\ntokens_per_day = 5\n")
    assert "no keys" in flowbed("keys", "list").out
    made = flowbed("keys", "create", "app", "--tier", "free")
    assert made.out.startswith("fb-")
    assert len(made.out.split()) == 1
    assert "not shown again" in made.err
    listed = flowbed("keys", "list").out
    assert "tier free" in listed
    assert "never used" in listed
    assert made.out.strip() not in listed
    revoked = flowbed("keys", "revoke", listed.split()[0])
    assert "is revoked" in revoked.out
    assert "REVOKED" in flowbed("keys", "list").out


def test_keys_unknown_model_is_refused_with_those_there_are(
    project: Path, flowbed: Callable[..., Called]
) -> None:
    flowbed("init")
    unknown = flowbed("keys", "create", "app", "--model", "nosuch")
    assert unknown.status == 2
    assert "there is no model 'nosuch'" in unknown.err
    assert "seeded:32" in unknown.err
    assert flowbed("keys", "list", "--json").json["keys"] == []
    assert flowbed("keys", "create", "app", "--model", "seeded:32").status == 0


def test_keys_unknown_tier_or_key_is_refused(project: Path, flowbed: Callable[..., Called]) -> None:
    flowbed("init")
    unknown = flowbed("keys", "create", "app", "--tier", "gold")
    assert unknown.status == 2
    assert "[serve.tiers.gold]" in unknown.err
    missing = flowbed("keys", "revoke", "nonsense")
    assert missing.status == 2
    assert "flowbed keys list" in missing.err


def test_keys_created_secret_is_recognized_by_the_project(
    project: Path, flowbed: Callable[..., Called]
) -> None:
    flowbed("init")
    secret = flowbed("keys", "create", "app").out.strip()

    async def known() -> str:
        async with await aopen(project) as bed:
            return (await bed.keys().caller(secret)).name

    assert asyncio.run(known()) == "app"
