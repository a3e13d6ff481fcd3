"""The command line: its commands, and the exit status of each call."""

from __future__ import annotations

import functools
import sys
from typing import TYPE_CHECKING, Annotated, Any

import typer

from flowbed.cli import configure
from flowbed.cli.hosting import aws, keys
from flowbed.cli.hosting.mcp import mcp
from flowbed.cli.hosting.serve import serve
from flowbed.cli.hosting.simulate import simulate
from flowbed.cli.index import chroma, drawing, maintenance
from flowbed.cli.index.fields import fields
from flowbed.cli.index.forget import forget
from flowbed.cli.index.publish import publish, pull
from flowbed.cli.index.search import search
from flowbed.cli.options import with_common
from flowbed.cli.printing.output import flush, note, say, say_json
from flowbed.cli.project import DONE, FAILURES, INTERRUPTED, USAGE
from flowbed.cli.work import dead_letters, jobs, runs, sources, submissions, workers
from flowbed.cli.work.embed import embed
from flowbed.cli.work.watch import watch
from flowbed.errors import Error, Misconfigured, Rejected

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    Command = Callable[..., int | None]

# In the order of `flowbed --help`. These take the common options; a group is its help and its commands.
COMMANDS: Mapping[str, Command] = {
    "init": configure.init,
    "add": configure.add,
    "plan": runs.plan,
    "run": runs.run,
    "embed": embed,
    "watch": watch,
    "search": search,
    "fields": fields,
    "publish": publish,
    "pull": pull,
    "status": maintenance.status,
    "compact": maintenance.compact,
    "versions": maintenance.versions,
    "verify": maintenance.verify,
    "gc": maintenance.gc,
    "doctor": maintenance.doctor,
    "rollback": maintenance.rollback,
    "why": maintenance.why,
    "map": drawing.map_,
    "report": drawing.report,
    "forget": forget,
    "import": chroma.import_,
    "export": chroma.export,
    "worker": workers.worker,
}
GROUPS: Mapping[str, tuple[str, Mapping[str, Command]]] = {
    "sources": ("The sources of the project.", {"list": sources.list_, "remove": sources.remove}),
    "submissions": (
        "Submissions to the provider's Batch API.",
        {
            "list": submissions.list_,
            "find": submissions.find,
            "submit": submissions.submit,
            "poll": submissions.poll,
            "cancel": submissions.cancel,
        },
    ),
    "jobs": (
        "Jobs that write documents into collections in the background.",
        {
            "create": jobs.create,
            "list": jobs.list_,
            "show": jobs.show,
            "wait": jobs.wait,
            "cancel": jobs.cancel,
            "retry": jobs.retry,
        },
    ),
    "dead-letters": (
        "Failures that need attention.",
        {"list": dead_letters.list_, "show": dead_letters.show, "retry": dead_letters.retry},
    ),
    "deltas": ("Deltas of other producers.", {"add": chroma.add_deltas}),
    "keys": (
        "API keys of `flowbed serve`.",
        {"create": keys.create, "list": keys.list_, "revoke": keys.revoke},
    ),
    "aws": (
        "The project on AWS.",
        {
            "deploy": aws.deploy,
            "diff": aws.diff,
            "destroy": aws.destroy,
            "status": aws.status,
            "logs": aws.logs,
            "invoke": aws.invoke,
            "cost": aws.cost,
        },
    ),
    "workers": (
        "The workers of the project.",
        {
            "list": workers.list_,
            "scale": workers.scale,
            "pause": workers.pause,
            "resume": workers.resume,
            "drain": workers.drain,
        },
    ),
}
# These run until they are stopped, and take options of their own.
SERVERS: Mapping[str, Command] = {"serve": serve, "mcp": mcp, "simulate": simulate}


def run(arguments: Sequence[str]) -> int:
    """Run one command line and return its exit status."""
    status = _run(arguments)
    try:
        flush(sys.stdout)
    except Error as error:
        note(f"flowbed: {error}")
        return FAILURES
    return status


def _run(arguments: Sequence[str]) -> int:
    as_json = "--json" in arguments
    command = command_line(arguments[0] if arguments else "")
    try:
        status = command(args=list(arguments), prog_name="flowbed", standalone_mode=False)
    except KeyboardInterrupt:
        status = INTERRUPTED
    except Error as error:
        if as_json:
            say_json({"error": {"kind": type(error).__name__, "message": str(error)}})
        note(f"flowbed: {error}")
        return USAGE if isinstance(error, Misconfigured | Rejected) else FAILURES
    except typer.Exit as error:
        return error.exit_code
    except Exception as error:
        if not hasattr(error, "exit_code") or not hasattr(error, "format_message"):
            raise
        _show_usage_error(error, as_json=as_json)
        return USAGE
    if status == INTERRUPTED:  # which the argument parser also makes of Ctrl-C
        note("interrupted; nothing is lost, run again to continue")
    return status if isinstance(status, int) else DONE


def _show_usage_error(error: Any, *, as_json: bool) -> None:  # of the argument parser, which typer hides
    if as_json:
        say_json({"error": {"kind": "UsageError", "message": error.format_message()}})
    error.show()


@functools.cache
def command_line(name: str = "") -> Callable[..., Any]:
    """Build the command line, with only the command `name` if there is one: building all takes 10 times as long."""
    app = typer.Typer(
        name="flowbed",
        no_args_is_help=True,
        add_completion=False,
        pretty_exceptions_enable=False,
        context_settings={"help_option_names": ["-h", "--help"]},
    )
    app.callback()(flowbed)
    every = {*COMMANDS, *SERVERS, *GROUPS}
    wanted = {name} & every or every
    for each, function in COMMANDS.items():
        if each in wanted:
            app.command(each)(with_common(function))
    for each, function in SERVERS.items():
        if each in wanted:
            app.command(each)(function)
    for each, (text, commands) in GROUPS.items():
        if each in wanted:
            group = typer.Typer(help=text, no_args_is_help=True)
            for command, function in commands.items():
                group.command(command)(with_common(function))
            app.add_typer(group, name=each)
    return typer.main.get_command(app)


def flowbed(
    version: Annotated[
        bool,
        typer.Option(
            "--version",
            callback=lambda wanted: _version() if wanted else None,
            is_eager=True,
            help="Print the version.",
        ),
    ] = False,
) -> None:
    """Keep an embedding index in step with your data."""


def _version() -> None:
    import flowbed  # reading the version costs a look at the package's metadata

    say(f"flowbed {flowbed.__version__}")
    raise typer.Exit
