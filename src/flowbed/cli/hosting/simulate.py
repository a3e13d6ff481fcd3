"""The command that serves simulators of embedding providers, to try things without a key."""

from __future__ import annotations

import asyncio
import contextlib
import json
import signal
import sys
from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING, Annotated, Any

import typer

from flowbed.cli.options import Json, Verbose, log_to_stderr
from flowbed.cli.printing.output import note, say, say_json
from flowbed.errors import Misconfigured

if TYPE_CHECKING:
    from collections.abc import Mapping

# Azure and OpenAI share one section of flowbed.toml, so Azure is simulated only when it is named.
DEFAULT = ("openai", "voyage", "cohere", "huggingface")


@dataclass(frozen=True, kw_only=True)
class Example:
    """The table `[sources.{name}]` that uses the simulator of an API, of its own kind unless `kind` says another.

    The simulator's address with `path` is the location, or the option `option` of a source elsewhere. `variable` has
    to be set to any token.
    """

    name: str
    path: str = ""
    variable: str = ""
    kind: str = ""
    location: str = ""
    option: str = ""


SOURCES = {
    "gitlab": Example(name="tracker", path="/web/app"),
    "slack": Example(name="team", path="/api", variable="SLACK_TOKEN"),
    "backlog": Example(name="tasks", variable="BACKLOG_API_KEY"),
    "discord": Example(name="chat", path="/channels/900000000000000001", variable="DISCORD_TOKEN"),
    "google_places": Example(
        name="receipts",
        variable="GOOGLE_PLACES_API_KEY",
        kind="receipts",
        location="receipts.jsonl",
        option="places_url",
    ),
}
TOKEN = "simulated"  # noqa: S105 - any token will do
Rate = Annotated[int | None, typer.Option(min=1, help="A limit per minute and key; default: none.")]


def simulate(
    provider: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME",
            help="openai, azure, voyage, cohere, huggingface, gitlab, slack, discord, backlog or google_places;"
            " repeatable.",
        ),
    ] = None,
    port: Annotated[
        int,
        typer.Option(
            min=0, max=65535, help="The port of the first simulator, the others follow; 0 takes free ports."
        ),
    ] = 0,
    fault: Annotated[
        list[str] | None,
        typer.Option(metavar="KIND,K=V,...", help="A fault to inject, such as slow,delay=0.5; repeatable."),
    ] = None,
    seed: Annotated[int, typer.Option(help="The random seed of faults with a probability.")] = 0,
    requests: Rate = None,
    inputs: Rate = None,
    tokens: Rate = None,
    batch_seconds: Annotated[
        float, typer.Option(min=0, help="How long a job of the Batch API takes; 0 finishes at once.")
    ] = 0.0,
    cancel_seconds: Annotated[float, typer.Option(min=0, help="How long it takes to cancel a job.")] = 0.0,
    queue_tokens: Annotated[
        int | None, typer.Option(min=1, help="The limit on the tokens of a key's unfinished jobs.")
    ] = None,
    as_json: Json = False,
    verbose: Verbose = False,
) -> None:
    """Serve simulators of providers or of sources on 127.0.0.1, and print the lines for flowbed.toml."""
    from flowbed.testing.simulators import Limits, Simulator  # loaded by the command that needs it
    from flowbed.testing.simulators.faults import read_fault
    from flowbed.testing.simulators.serving.process import run
    from flowbed.testing.simulators.vendors import VENDORS

    log_to_stderr(verbose=verbose)
    names = list(dict.fromkeys(provider or DEFAULT))
    if unknown := [name for name in names if name not in {*VENDORS, *SOURCES}]:
        known = ", ".join([*VENDORS, *SOURCES])
        raise Misconfigured(f"there is no simulator of {unknown[0]!r}; choose from {known}")
    if {"openai", "azure"} <= set(names):
        raise Misconfigured(
            "openai and azure are one provider in flowbed.toml; simulate one of them at a time"
        )
    limits = Limits(requests=requests, inputs=inputs, tokens=tokens)
    faults = [read_fault(each) for each in fault or ()]
    jobs = {
        "batch_seconds": batch_seconds,
        "cancel_seconds": cancel_seconds,
        "queue_tokens": queue_tokens,
    }
    simulators: dict[str, Any] = {
        name: Simulator(
            VENDORS[name].open(**(jobs if VENDORS[name].has_jobs else {})),
            limits=limits,
            faults=faults,
            seed=seed,
        )
        for name in names
        if name in VENDORS
    }
    for name in names:
        if name in SOURCES:
            module = import_module(f"flowbed.testing.simulators.sources.{name}")
            simulators[name] = module.sample()
    run(_serve(simulators, port, as_json=as_json))


async def _serve(simulators: Mapping[str, Any], port: int, *, as_json: bool) -> None:
    """Serve until SIGINT or SIGTERM."""
    from flowbed.testing.simulators import running

    stopped = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stopped.set)
    async with contextlib.AsyncExitStack() as stack:
        urls: dict[str, str] = {}
        for index, (name, simulator) in enumerate(simulators.items()):
            try:
                # Those of sources have a clock of their own.
                served = running(simulator, port=port and port + index, dated=name not in SOURCES)
                urls[name] = await stack.enter_async_context(served)
            except OSError as error:
                raise Misconfigured(
                    f"port {port + index} is not available ({error.strerror}); choose another with --port"
                ) from error
        _show(urls, as_json=as_json)
        await stopped.wait()


def _show(urls: Mapping[str, str], *, as_json: bool) -> None:
    """Print the addresses, as the lines of flowbed.toml that use them."""
    from flowbed.testing.simulators.vendors import VENDORS

    if as_json:
        found = {
            name: {"url": url, "model": VENDORS[name].model, "options": VENDORS[name].options(url)}
            for name, url in urls.items()
            if name in VENDORS
        }
        sources = {name: {"url": url, **_source(name, url)} for name, url in urls.items() if name in SOURCES}
        say_json({"simulators": {**found, **sources}})
        return
    for name, url in urls.items():
        if name in SOURCES:
            _show_source(name, url)
            continue
        vendor = VENDORS[name]
        # A JSON string is a TOML string, too.
        say(f"# A simulator of {name}, with no model behind it; use it with")
        say(f"# model = {json.dumps(vendor.model)}")
        say(f"[providers.{vendor.provider}]")
        for option, value in vendor.options(url).items():
            say(f"{option} = {json.dumps(value)}")
        say()
    sys.stdout.flush()  # a reader of the pipe waits for these lines
    note("put these lines into flowbed.toml; Ctrl-C stops the simulators")


def _source(name: str, url: str) -> dict[str, Any]:
    """Return the settings of a source that uses the simulator at `url`."""
    example = SOURCES[name]
    if not example.option:
        return {"kind": name, "location": url + example.path}
    options = {"places": True, example.option: url}
    return {"kind": example.kind, "location": example.location, "options": options}


def _show_source(name: str, url: str) -> None:
    example, settings = SOURCES[name], _source(name, url)
    options: dict[str, Any] = settings.pop("options", {})
    say(f"# A simulator of {name}; POST {url}/_simulator/do changes what it has")
    if example.variable:
        prefix = "xoxb-" if name == "slack" else ""
        say(f"# export {example.variable}={prefix}{TOKEN}")
    say(f"[sources.{example.name}]")
    for setting, value in settings.items():
        say(f"{setting} = {json.dumps(value)}")
    for option, value in options.items():
        say(f"options.{option} = {json.dumps(value)}")
    say()
