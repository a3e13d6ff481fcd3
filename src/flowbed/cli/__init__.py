"""The command line: a thin shell around `flowbed.bed`."""

from __future__ import annotations

import sys


def main() -> None:
    """Run the command that the arguments name, and end the process with its exit status."""
    from flowbed.cli.app import run  # importing this package stays free of typer
    from flowbed.cli.printing.output import prepare
    from flowbed.wiring.process import set_up

    set_up()
    prepare()
    sys.exit(run(sys.argv[1:]))
