"""Kill a process at a named point, as `kill -9` would.

    python -m tests.support.processes.failpoints delta.written:2 -- run --yes

runs `flowbed run --yes` and kills it at its second delta.
"""

from __future__ import annotations

import sys
from importlib.metadata import entry_points
from typing import TYPE_CHECKING, Any

from flowbed import telemetry
from flowbed.testing.faults import die

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

USAGE = "usage: python -m tests.support.processes.failpoints POINT[:N] -- flowbed's arguments"


def kill_at(point: str, nth: int = 1) -> Callable[[], None]:
    """Kill this process when it reaches `point` of `flowbed.telemetry` for the nth time; the call returned disarms."""
    reached = 0

    def count(name: str, facts: dict[str, Any]) -> None:
        nonlocal reached
        if name == point:
            reached += 1
            if reached == nth:
                die()

    return telemetry.listen(count)


def main(arguments: Sequence[str]) -> int:
    """Arm the named point, and run the installed `flowbed` command with the arguments after `--`."""
    match arguments:
        case [armed, "--", *rest]:
            point, _, nth = armed.partition(":")
        case _:
            sys.stderr.write(f"{USAGE}\n")
            return 2
    points = {value for name, value in vars(telemetry).items() if name.isupper() and isinstance(value, str)}
    if point not in points or not (nth or "1").isdecimal():
        sys.stderr.write(f"{USAGE}\nwhere POINT is one of: {', '.join(sorted(points))}\n")
        return 2
    kill_at(point, int(nth or "1"))
    # Through the entry point, as a shell would.
    (command,) = entry_points(group="console_scripts", name="flowbed")
    sys.argv = ["flowbed", *rest]
    return int(command.load()() or 0)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
