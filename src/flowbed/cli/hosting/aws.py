"""The commands that bring a project to AWS and look after it there."""

from __future__ import annotations

import functools
import inspect
import json
import re
import tempfile
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, get_type_hints

import typer

from flowbed.aws.stack.options import Architecture
from flowbed.cli.options import Common
from flowbed.cli.printing.output import note, say
from flowbed.cli.project import project_folder
from flowbed.errors import Misconfigured, Rejected
from flowbed.records.values import count, shown
from flowbed.wiring import process

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from flowbed.aws.deployment.cloudformation import Change, Deployment, StackState
    from flowbed.aws.deployment.costs import Cost
    from flowbed.aws.stack.options import StackOptions

Name = Annotated[str, typer.Option(help="The stack; all its parts are named after it.")]
Function = Annotated[str, typer.Argument(metavar="FUNCTION", help="Such as compaction.")]

MINUTE_MS = 60_000
# Names of Lambda have 64 characters at most, and `-process_receipt_realtime` follows that of the stack.
LONGEST_NAME = 39
STACK = re.compile(rf"[a-z][a-z0-9-]{{0,{LONGEST_NAME - 1}}}")
# Beyond any volume, prices and texts; their products are still numbers.
MOST_LINES, MOST_TOKENS, MOST_PRICE = 10**15, 10**6, 10**6


@dataclass(frozen=True)
class StackFlags:
    """The options of the commands that make a stack."""

    name: Name = "flowbed"
    image: Annotated[
        str,
        typer.Option(
            metavar="URI", help="The image of the larger functions in ECR; deploy/lambda/Dockerfile makes it."
        ),
    ] = ""
    architecture: Annotated[
        Architecture, typer.Option(help="The processors of all functions; the image has to be made for them.")
    ] = "arm64"
    local: Annotated[bool, typer.Option("--local", help="Deploy to an emulator on this machine.")] = False
    secret: Annotated[
        list[str] | None,
        typer.Option(
            metavar="VARIABLE",
            help="Keep this key in Secrets Manager; repeatable. Default: OPENAI_API_KEY.",
        ),
    ] = None
    fifo: Annotated[
        bool, typer.Option("--fifo", help="Compact in the order of the runs, which is slower.")
    ] = False
    alarm_email: Annotated[str, typer.Option(help="Who is told of alarms.")] = ""


def _with_flags(work: Callable[[Common, StackFlags], None]) -> Callable[..., None]:
    """Give a command the options of a stack, which it receives as one value."""
    hints = get_type_hints(StackFlags, include_extras=True)
    keyword = inspect.Parameter.KEYWORD_ONLY
    own = [
        inspect.Parameter(each.name, keyword, default=each.default, annotation=hints[each.name])
        for each in fields(StackFlags)
    ]

    @functools.wraps(work)
    def command(common: Common, **options: Any) -> None:
        work(common, StackFlags(**options))

    first = inspect.Parameter("common", inspect.Parameter.POSITIONAL_OR_KEYWORD, annotation=Common)
    command.__signature__ = inspect.Signature([first, *own])  # type: ignore[attr-defined]
    command.__annotations__ = {"common": Common, **hints}
    return command


@_with_flags
def deploy(common: Common, flags: StackFlags) -> None:
    """Create the stack of this project, or bring it up to date."""
    changed = _with_options(common, flags, lambda made, options: made.deploy(options))
    common.show({"changes": changed}, lambda _: _show_changes(changed, done=True))


@_with_flags
def diff(common: Common, flags: StackFlags) -> None:
    """Show what `deploy` would change."""
    found = _with_options(common, flags, lambda made, options: made.changes(options))
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
    since = max(0, process.now() // 1_000 - minutes * MINUTE_MS)
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
    except RecursionError as error:
        raise Rejected("the event is not JSON: nested too deeply") from error
    except ValueError as error:
        raise Rejected(f"the event is not JSON: {error}") from error
    answer = _deployment(name).invoke(function, said)
    common.show(answer, lambda found: say(json.dumps(found, ensure_ascii=False)))


def cost(
    common: Common,
    lines: Annotated[int, typer.Option(min=1, max=MOST_LINES, help="Receipt lines to embed once.")],
    tokens: Annotated[float, typer.Option(min=1, max=MOST_TOKENS, help="Tokens of a line.")] = 12.0,
    price: Annotated[
        float, typer.Option(min=0, max=MOST_PRICE, help="Of the model, for a million tokens.")
    ] = 0.02,
) -> None:
    """Show what a volume costs on AWS, on each lane, by list prices."""
    from flowbed.aws.deployment.costs import costs, of_whole_snapshots

    lanes: dict[Literal["realtime", "batch"], tuple[Cost, ...]] = {
        "realtime": costs(lines, lane="realtime", tokens_each=tokens, usd_per_million=price),
        "batch": costs(lines, lane="batch", tokens_each=tokens, usd_per_million=price / 2),
    }
    totals = {lane: sum(each.usd for each in parts) for lane, parts in lanes.items()}
    other = of_whole_snapshots(lines)
    found = {"lanes": lanes, "usd": totals, "whole_snapshots": other}

    def view(_: object) -> None:
        for lane, parts in lanes.items():
            _show_costs(f"{lane}, {count(lines, 'line')}", parts)
        _show_costs(
            "for comparison, compactors that move the whole Chroma snapshot, beside the embeddings", other
        )

    common.show(found, view)


def _with_options(
    common: Common, flags: StackFlags, work: Callable[[Deployment, StackOptions], list[Change]]
) -> list[Change]:
    """Make the package of the light functions, and do `work` with the stack and its options."""
    from flowbed.aws.deployment.package import build, build_local
    from flowbed.aws.deployment.synthesis import require_cdk
    from flowbed.aws.existing.tables import existing_tables
    from flowbed.aws.stack.options import StackOptions, require_image
    from flowbed.settings import read_settings

    if not flags.local:
        require_image(flags.image)
    project = project_folder(common.config)
    # Before the functions are packed, which takes minutes.
    made = _deployment(flags.name)
    made.require_deployable()
    require_cdk()
    with tempfile.TemporaryDirectory(prefix="flowbed-package-") as folder:
        note("packing the functions")
        if flags.local:
            build_local(Path(folder), project)
        else:
            build(Path(folder), project, flags.architecture)
        return work(
            made,
            StackOptions(
                name=flags.name,
                package=folder,
                image=flags.image,
                architecture=flags.architecture,
                local=flags.local,
                secrets=tuple(flags.secret or ["OPENAI_API_KEY"]),
                fifo=flags.fifo,
                alarm_email=flags.alarm_email,
                tables=existing_tables(read_settings(Path(folder))),
            ),
        )


def _deployment(name: str) -> Deployment:
    from flowbed.aws.deployment.clients import environment_client
    from flowbed.aws.deployment.cloudformation import Deployment

    if not STACK.fullmatch(name):
        raise Misconfigured(
            f"{shown(name)} is no name for a stack: up to {LONGEST_NAME} lower-case letters, digits and -, and a letter"
            " first"
        )
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


def _show_costs(title: str, parts: Sequence[Cost]) -> None:
    say(title)
    for each in parts:
        say(f"  {each.part:<20}${each.usd:>10,.2f}  {each.counted}")
    say(f"  {'in all':<20}${sum(each.usd for each in parts):>10,.2f}")
