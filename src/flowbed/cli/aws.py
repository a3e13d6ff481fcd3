"""The commands that bring a project to AWS and look after it there."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from flowbed.cli.options import Common
from flowbed.cli.output import note, say
from flowbed.cli.project import project_folder
from flowbed.errors import Misconfigured, Rejected
from flowbed.records.values import count
from flowbed.wiring import process

if TYPE_CHECKING:
    from collections.abc import Sequence

    from flowbed.aws.deployment.cloudformation import Change, Deployment, StackState
    from flowbed.aws.deployment.costs import Cost
    from flowbed.aws.stack.options import StackOptions

Name = Annotated[str, typer.Option(help="The stack; all its parts are named after it.")]
Image = Annotated[
    str,
    typer.Option(
        metavar="URI", help="The image of the larger functions in ECR; deploy/lambda/Dockerfile makes it."
    ),
]
Local = Annotated[bool, typer.Option("--local", help="Deploy to an emulator on this machine.")]
Secrets = Annotated[
    list[str] | None,
    typer.Option(
        "--secret",
        metavar="VARIABLE",
        help="Keep this key in Secrets Manager; repeatable. Default: OPENAI_API_KEY.",
    ),
]
Fifo = Annotated[bool, typer.Option("--fifo", help="Compact in the order of the runs, which is slower.")]
Email = Annotated[str, typer.Option(help="Who is told of alarms.")]
Function = Annotated[str, typer.Argument(metavar="FUNCTION", help="Such as compaction.")]

MINUTE_MS = 60_000


def deploy(
    common: Common,
    name: Name = "flowbed",
    image: Image = "",
    local: Local = False,
    secret: Secrets = None,
    fifo: Fifo = False,
    alarm_email: Email = "",
) -> None:
    """Create the stack of this project, or bring it up to date."""
    changed = _with_options(
        common,
        lambda options: _deployment(name).deploy(options),
        name=name,
        image=image,
        local=local,
        secret=secret,
        fifo=fifo,
        alarm_email=alarm_email,
    )
    common.show({"changes": changed}, lambda _: _show_changes(changed, done=True))


def diff(
    common: Common,
    name: Name = "flowbed",
    image: Image = "",
    local: Local = False,
    secret: Secrets = None,
    fifo: Fifo = False,
    alarm_email: Email = "",
) -> None:
    """Show what `deploy` would change."""
    found = _with_options(
        common,
        lambda options: _deployment(name).changes(options),
        name=name,
        image=image,
        local=local,
        secret=secret,
        fifo=fifo,
        alarm_email=alarm_email,
    )
    common.show({"changes": found}, lambda _: _show_changes(found, done=False))


def destroy(
    common: Common,
    name: Name = "flowbed",
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
) -> None:
    """Remove the stack; its bucket, table and secrets stay, except on an emulator."""
    if not yes:
        typer.confirm(f"Remove the stack {name}?", abort=True)
    _deployment(name).destroy()
    common.show({"destroyed": name}, lambda _: say(f"the stack {name} is removed"))


def status(common: Common, name: Name = "flowbed") -> None:
    """Show the stack, what waits in its queues, how its machines ended, and alarms."""
    state = _deployment(name).state()
    common.show(state, _show_state)


def logs(
    common: Common,
    function: Function,
    name: Name = "flowbed",
    minutes: Annotated[int, typer.Option(min=1, help="How far to look back.")] = 60,
) -> None:
    """Print the log of a function."""
    since = process.now() // 1_000 - minutes * MINUTE_MS
    lines = _deployment(name).logs(function, since_ms=since)
    common.show({"lines": lines}, lambda _: say("\n".join(lines)))


def invoke(
    common: Common,
    function: Function,
    event: Annotated[str, typer.Argument(metavar="[JSON]", help="What the function is called with.")] = "{}",
    name: Name = "flowbed",
) -> None:
    """Call a function, and print its answer."""
    try:
        said = json.loads(event)
    except ValueError as error:
        raise Rejected(f"the event is not JSON: {error}") from error
    answer = _deployment(name).invoke(function, said)
    common.show(answer, lambda found: say(json.dumps(found, ensure_ascii=False)))


def cost(
    common: Common,
    lines: Annotated[int, typer.Option(min=1, help="Receipt lines to embed once.")],
    tokens: Annotated[float, typer.Option(min=1, help="Tokens of a line.")] = 12.0,
    price: Annotated[float, typer.Option(min=0, help="Of the model, for a million tokens.")] = 0.02,
) -> None:
    """Show what a volume costs on AWS, on each lane, by list prices."""
    from flowbed.aws.deployment.costs import costs

    lanes: dict[Literal["realtime", "batch"], tuple[Cost, ...]] = {
        "realtime": costs(lines, lane="realtime", tokens_each=tokens, usd_per_million=price),
        "batch": costs(lines, lane="batch", tokens_each=tokens, usd_per_million=price / 2),
    }
    totals = {lane: sum(each.usd for each in parts) for lane, parts in lanes.items()}
    common.show({"lanes": lanes, "usd": totals}, lambda _: _show_costs(lines, lanes, totals))


def _with_options(common: Common, work: Any, *, local: bool, secret: list[str] | None, **given: Any) -> Any:
    """Make the package of the light functions, and do `work` with the options of the stack."""
    from flowbed.aws.deployment.package import build, build_local
    from flowbed.aws.stack.options import StackOptions, require_image

    if not local:
        require_image(given["image"])
    project = project_folder(common.config)
    with tempfile.TemporaryDirectory(prefix="flowbed-package-") as folder:
        note("packing the functions")
        (build_local if local else build)(Path(folder), project)
        options: StackOptions = StackOptions(
            package=folder, local=local, secrets=tuple(secret or ["OPENAI_API_KEY"]), **given
        )
        return work(options)


def _deployment(name: str) -> Deployment:
    from flowbed.aws.deployment.cloudformation import Deployment, environment_client

    if not name.replace("-", "").isalnum() or not name.islower():
        raise Misconfigured(f"{name!r} is no name for a stack: lower-case letters, digits and -")
    return Deployment(name, client=environment_client())


def _show_changes(changes: Sequence[Change], *, done: bool) -> None:
    for each in changes:
        replaced = ", is replaced" if each.replaces else ""
        say(f"{each.action:<8}{each.resource}  ({each.kind}{replaced})")
    if changes:
        said = count(len(changes), "change")
        say(f"{said}, carried out" if done else said)
    else:
        say("nothing to change")


def _show_state(state: StackState) -> None:
    say(f"status   {state.status}")
    for name, value in state.outputs.items():
        say(f"         {name.removesuffix('Output')}: {value}")
    for name, waiting in state.queues.items():
        say(f"queue    {name}: {count(waiting, 'message')}")
    for name, ended in state.executions.items():
        say(f"machine  {name}: {', '.join(ended) or 'never started'}")
    for name in state.alarms:
        say(f"ALARM    {name}")


def _show_costs(
    lines: int, lanes: dict[Literal["realtime", "batch"], tuple[Cost, ...]], totals: dict[Any, float]
) -> None:
    for lane, parts in lanes.items():
        say(f"{lane}, {count(lines, 'line')}")
        for each in parts:
            say(f"  {each.part:<20}${each.usd:>10,.2f}  {each.counted}")
        say(f"  {'in all':<20}${totals[lane]:>10,.2f}")
