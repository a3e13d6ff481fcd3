"""The commands about API keys."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Any

import typer

from flowbed.cli.output import note, say, say_json
from flowbed.cli.project import Config, Json, Verbose, log_to_stderr, with_bed

if TYPE_CHECKING:
    from flowbed.bed import Flowbed
    from flowbed.ledger import KeyRow

keys = typer.Typer(no_args_is_help=True, help="API keys of `flowbed serve`.")


@keys.command()
def create(
    name: Annotated[str, typer.Argument(metavar="NAME", help="What it is for.")],
    tier: Annotated[str, typer.Option(help="How much it may use: a [serve.tiers.NAME].")] = "default",
    model: Annotated[
        list[str] | None,
        typer.Option(metavar="MODEL", help="A model that it may use; repeatable; by default all."),
    ] = None,
    admin: Annotated[bool, typer.Option("--admin", help="Let it ask for /v1/admin/... too.")] = False,
    as_json: Json = False,
    config: Config = None,
    verbose: Verbose = False,
) -> None:
    """Make a key; its secret is shown this once."""
    log_to_stderr(verbose=verbose)

    async def make(bed: Flowbed) -> tuple[KeyRow, str]:
        return await bed.keys().create(name, secret=bed.secret, tier=tier, models=model or (), admin=admin)

    row, secret = with_bed(config, make)
    if as_json:
        say_json({**_shown(row), "secret": secret})
        return
    say(secret)
    note(f"key {row.id} of {row.name}: keep the secret now, it is shown this once and stored nowhere")


@keys.command("list")
def list_(as_json: Json = False, config: Config = None, verbose: Verbose = False) -> None:
    """List every key, and what it has used today."""
    log_to_stderr(verbose=verbose)

    async def look(bed: Flowbed) -> tuple[list[KeyRow], dict[str, int]]:
        rows = await bed.keys().all()
        today = _time(bed.clock()).date().isoformat()
        return rows, dict(await bed.ledger.quotas.used(today, [row.id for row in rows]))

    rows, used = with_bed(config, look)
    if as_json:
        say_json({"keys": [{**_shown(row), "tokens_today": used.get(row.id, 0)} for row in rows]})
        return
    if not rows:
        say(
            "there are no keys: `flowbed serve` answers this machine alone; `flowbed keys create NAME` makes one"
        )
    for row in rows:
        say(f"{row.id}  {row.prefix}...  {row.name}")
        said = [f"tier {row.tier}", f"{used.get(row.id, 0):,} tokens today", f"created {_day(row.created)}"]
        said += [f"last used {_day(row.used)}"] if row.used else ["never used"]
        said += ["admin"] if row.admin else []
        said += [f"models {', '.join(row.models)}"] if row.models else []
        said += [f"REVOKED {_day(row.revoked)}"] if row.revoked else []
        say(f"    {', '.join(said)}")


@keys.command()
def revoke(
    key: Annotated[str, typer.Argument(metavar="ID", help="As `flowbed keys list` has it.")],
    as_json: Json = False,
    config: Config = None,
    verbose: Verbose = False,
) -> None:
    """Take a key out of use for good; servers that run notice within seconds."""
    log_to_stderr(verbose=verbose)
    row = with_bed(config, lambda bed: bed.keys().revoke(key))
    if as_json:
        say_json(_shown(row))
    else:
        say(f"key {row.id} of {row.name} is revoked")


def _shown(row: KeyRow) -> dict[str, Any]:
    """Tell of a key what may be seen: not the hash, though nobody could make the secret of it."""
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


def _day(at: int) -> str:
    return _time(at).strftime("%Y-%m-%d %H:%M")
