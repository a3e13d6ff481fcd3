"""The command that serves simulators of embedding providers, to try things without a key."""

from __future__ import annotations

import asyncio
import contextlib
import json
import signal
import sys
from importlib import import_module
from typing import TYPE_CHECKING, Annotated, Any

import typer

from flowbed.cli.options import Json, Verbose, log_to_stderr
from flowbed.cli.output import note, say, say_json
from flowbed.errors import Misconfigured

if TYPE_CHECKING:
    from collections.abc import Mapping

# Azure and OpenAI share one section of flowbed.toml, so Azure is simulated only when it is named.
DEFAULT = ("openai", "voyage", "cohere", "huggingface")
# Of each simulated source: what it is called in the lines for flowbed.toml, where it is below the address, and what has
# to be set to read from it, where any token will do.
SOURCES = {
    "gitlab": ("tracker", "/web/app", ""),
    "slack": ("team", "/api", "export SLACK_TOKEN=xoxb-simulated"),
    "backlog": ("tasks", "", "export BACKLOG_API_KEY=simulated"),
    "discord": ("chat", "/channels/900000000000000001", "export DISCORD_TOKEN=simulated"),
}
Rate = Annotated[int | None, typer.Option(min=1, help="A limit per minute and key; default: none.")]


def simulate(
    provider: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME",
            help="openai, azure, voyage, cohere, huggingface, gitlab, slack, discord or backlog; repeatable.",
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
        sources = {
            name: {"url": url, "kind": name, "location": url + SOURCES[name][1]}
            for name, url in urls.items()
            if name in SOURCES
        }
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


def _show_source(name: str, url: str) -> None:
    source, below, token = SOURCES[name]
    say(f"# A simulator of {name}; POST {url}/_simulator/do changes what it has")
    if token:
        say(f"# {token}")
    say(f"[sources.{source}]")
    say(f"kind = {json.dumps(name)}")
    say(f"location = {json.dumps(url + below)}")
    say()
