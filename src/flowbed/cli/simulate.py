"""The command that serves simulators of embedding providers, for trying things out without a key."""

from __future__ import annotations

import asyncio
import contextlib
import json
import signal
import sys
from typing import TYPE_CHECKING, Annotated

import typer

from flowbed.cli.output import note, say, say_json
from flowbed.cli.project import Json, Verbose, log_to_stderr
from flowbed.errors import Misconfigured

if TYPE_CHECKING:
    from collections.abc import Mapping

    from flowbed.testing.simulators import Simulator

# Azure stands where OpenAI does in flowbed.toml, so that it is simulated only when it is named.
USUAL = ("openai", "voyage", "cohere", "huggingface")
Rate = Annotated[
    int | None, typer.Option(min=1, help="A limit per minute and key; by default there is none.")
]


def simulate(
    provider: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME", help="openai, azure, voyage, cohere or huggingface; repeatable."),
    ] = None,
    port: Annotated[
        int,
        typer.Option(min=0, max=65535, help="The port of the first, the others follow; 0 takes free ones."),
    ] = 0,
    fault: Annotated[
        list[str] | None,
        typer.Option(metavar="KIND,K=V,...", help="What goes wrong, such as slow,delay=0.5; repeatable."),
    ] = None,
    seed: Annotated[int, typer.Option(help="Chance begins here, for faults with a probability.")] = 0,
    requests: Rate = None,
    inputs: Rate = None,
    tokens: Rate = None,
    batch_seconds: Annotated[
        float, typer.Option(min=0, help="How long a job of the Batch API takes; 0 is done at once.")
    ] = 0.0,
    cancel_seconds: Annotated[float, typer.Option(min=0, help="How long it takes to cancel a job.")] = 0.0,
    queue_tokens: Annotated[
        int | None, typer.Option(min=1, help="How many tokens a key's unfinished jobs may have in all.")
    ] = None,
    as_json: Json = False,
    verbose: Verbose = False,
) -> None:
    """Serve simulators of embedding providers on 127.0.0.1, and print what flowbed.toml needs to use them."""
    from flowbed.testing.simulators import Limits, Simulator  # loaded by the command that needs it
    from flowbed.testing.simulators.faults import read_fault
    from flowbed.testing.simulators.process import run
    from flowbed.testing.simulators.vendors import VENDORS

    log_to_stderr(verbose=verbose)
    names = list(dict.fromkeys(provider or USUAL))
    if unknown := [name for name in names if name not in VENDORS]:
        raise Misconfigured(f"there is no simulator of {unknown[0]!r}; there are {', '.join(VENDORS)}")
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
    simulators = {
        name: Simulator(
            VENDORS[name].open(**(jobs if VENDORS[name].has_jobs else {})),
            limits=limits,
            faults=faults,
            seed=seed,
        )
        for name in names
    }
    run(_serve(simulators, port, as_json=as_json))


async def _serve(simulators: Mapping[str, Simulator], port: int, *, as_json: bool) -> None:
    """Serve until told to stop."""
    from flowbed.testing.simulators import running

    stopped = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stopped.set)
    async with contextlib.AsyncExitStack() as stack:
        urls: dict[str, str] = {}
        for place, (name, simulator) in enumerate(simulators.items()):
            try:
                urls[name] = await stack.enter_async_context(running(simulator, port=port and port + place))
            except OSError as error:
                raise Misconfigured(
                    f"port {port + place} is not to be had ({error.strerror}); choose another with --port"
                ) from error
        _tell(urls, as_json=as_json)
        await stopped.wait()


def _tell(urls: Mapping[str, str], *, as_json: bool) -> None:
    """Print the addresses, and the lines of flowbed.toml that lead to them."""
    from flowbed.testing.simulators.vendors import VENDORS

    if as_json:
        told = {
            name: {"url": url, "model": VENDORS[name].model, "options": VENDORS[name].options(url)}
            for name, url in urls.items()
        }
        say_json({"simulators": told})
        return
    for name, url in urls.items():
        vendor = VENDORS[name]
        # What JSON makes of a text TOML reads as the same text.
        say(f"# A simulator of {name}, with no model behind it; use it with")
        say(f"# model = {json.dumps(vendor.model)}")
        say(f"[providers.{vendor.provider}]")
        for option, value in vendor.options(url).items():
            say(f"{option} = {json.dumps(value)}")
        say()
    sys.stdout.flush()  # whoever reads them must not wait for the end
    note("put these lines into flowbed.toml; Ctrl-C stops the simulators")
