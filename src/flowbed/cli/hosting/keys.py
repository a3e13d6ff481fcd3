"""The commands about API keys."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Any

import typer

from flowbed.cli.options import Common
from flowbed.cli.printing.output import note, say
from flowbed.records.values import count

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from flowbed.bed import Flowbed
    from flowbed.ledger import KeyRow


def create(
    common: Common,
    name: Annotated[str, typer.Argument(metavar="NAME", help="What the key is for.")],
    tier: Annotated[
        str, typer.Option(help="Its limits: a table serve.tiers.NAME of flowbed.toml.")
    ] = "default",
    model: Annotated[
        list[str] | None,
        typer.Option(metavar="MODEL", help="A model that it may use; repeatable; default: all."),
    ] = None,
    admin: Annotated[bool, typer.Option("--admin", help="Grant the admin scope (/v1/admin/...).")] = False,
) -> None:
    """Create a key; its secret is shown only this once."""

    async def make(bed: Flowbed) -> tuple[KeyRow, str]:
        return await bed.keys().create(name, secret=bed.secret, tier=tier, models=model or (), admin=admin)

    row, secret = common.with_bed(make)

    def show(_: object) -> None:
        say(secret)
        note(f"key {row.id} of {row.name}: keep the secret now; it is stored nowhere and not shown again")

    common.show({**_public(row), "secret": secret}, show)


def list_(common: Common) -> None:
    """List every key, and the tokens it has used today."""

    async def look(bed: Flowbed) -> tuple[list[KeyRow], dict[str, int]]:
        rows = await bed.keys().all()
        today = _time(bed.clock()).date().isoformat()
        return rows, dict(await bed.ledger.quotas.used(today, [row.id for row in rows]))

    rows, used = common.with_bed(look)
    common.show(
        {"keys": [{**_public(row), "tokens_today": used.get(row.id, 0)} for row in rows]},
        lambda _: _show_keys(rows, used),
    )


def revoke(
    common: Common, key: Annotated[str, typer.Argument(metavar="ID", help="An id of `flowbed keys list`.")]
) -> None:
    """Revoke a key for good; running servers refuse it within seconds."""
    row = common.with_bed(lambda bed: bed.keys().revoke(key))
    common.show(_public(row), lambda _: say(f"key {row.id} of {row.name} is revoked"))


def _show_keys(rows: Sequence[KeyRow], used: Mapping[str, int]) -> None:
    if not rows:
        say(
            "there are no keys: `flowbed serve` answers only this machine; `flowbed keys create NAME` creates one"
        )
    for row in rows:
        say(f"{row.id}  {row.prefix}...  {row.name}")
        facts = [
            f"tier {row.tier}",
            f"{count(used.get(row.id, 0), 'token')} today",
            f"created {_minute(row.created)}",
        ]
        facts += [f"last used {_minute(row.used)}"] if row.used else ["never used"]
        facts += ["admin"] if row.admin else []
        facts += [f"models {', '.join(row.models)}"] if row.models else []
        facts += [f"REVOKED {_minute(row.revoked)}"] if row.revoked else []
        say(f"    {', '.join(facts)}")


def _public(row: KeyRow) -> dict[str, Any]:
    """Return what may be shown of a key: everything but the hash of its secret."""
    return {
        "id": row.id,
        "name": row.name,
        "prefix": row.prefix,
        "tier": row.tier,
        "models": list(row.models),
        "admin": row.admin,
        "created": _time(row.created).isoformat(),
        "last_used": _time(row.used).isoformat() if row.used else None,
        "revoked": _time(row.revoked).isoformat() if row.revoked else None,
    }


def _time(at: int) -> datetime:
    return datetime.fromtimestamp(at / 1e6, UTC)


def _minute(at: int) -> str:
    return _time(at).strftime("%Y-%m-%d %H:%M")
