"""Run benchmarks, store their results, and write docs/benchmarks.md. Real data is read from FLOWBED_TEST_DATA."""

from __future__ import annotations

import argparse
import os
import shutil
import sys
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path

from benchmarks.machine import Watch, described
from benchmarks.page import BENCHMARKS, write_page
from benchmarks.process import BENCH, ROOT
from benchmarks.results import Options, Result

FULL = 1.0


def main() -> int:
    """Run the named benchmarks, or all; `page` only writes the page from stored results."""
    arguments = _arguments()
    data = Path(os.environ.get("FLOWBED_TEST_DATA") or ROOT.parent / "shared" / "data")
    if not data.is_dir():
        print("no data: set FLOWBED_TEST_DATA to the folder of test data", file=sys.stderr)
        return 2
    # Results of another size are not published.
    whole = arguments.scale == FULL and not (arguments.rounds or arguments.rows or arguments.rows_384)
    results, docs = (BENCH / "results", ROOT / "docs") if whole else (BENCH / "trial", BENCH / "trial")
    failed = []
    for name in [] if arguments.names == ["page"] else arguments.names or list(BENCHMARKS):
        print(f"{name} ...", flush=True)
        try:
            result = _measured(name, arguments, data)
        except Exception as error:  # noqa: BLE001 - the others are measured all the same
            print(f"{name} failed: {error}", file=sys.stderr)
            failed.append(name)
            continue
        result.write(results)
        print(f"{name}: {result.seconds:.0f} s; {result.load}", flush=True)
        for figure in BENCHMARKS[name].figures(result.found):
            print(f"  {figure.line}")
    write_page(results, docs)
    print(f"written: {docs / 'benchmarks.md'}")
    return 1 if failed else 0


def _measured(name: str, arguments: argparse.Namespace, data: Path) -> Result:
    BENCH.mkdir(exist_ok=True)
    work = Path(
        tempfile.mkdtemp(prefix=f"{name}-", dir=BENCH)
    )  # on a disk; the default temporary folder may be in memory
    options = Options(
        data=data,
        work=work,
        scale=arguments.scale,
        rounds=arguments.rounds,
        rows=arguments.rows,
        rows_384=arguments.rows_384,
    )
    began = time.monotonic()
    try:
        with Watch() as watch:
            found = BENCHMARKS[name].measure(options)
            load = watch.load()
    finally:
        shutil.rmtree(work, ignore_errors=True)
    return Result(
        name=name,
        command=" ".join(["python -m benchmarks", name, *_changed(arguments)]),
        day=f"{datetime.now(UTC):%Y-%m-%d}",
        seconds=time.monotonic() - began,
        machine=described(),
        load=load,
        found=found,
    )


def _changed(arguments: argparse.Namespace) -> list[str]:
    options = [f"--scale {arguments.scale:g}"] if arguments.scale != FULL else []
    options += [f"--rounds {arguments.rounds}"] if arguments.rounds else []
    options += [f"--rows {arguments.rows}"] if arguments.rows else []
    return options + ([f"--rows-384 {arguments.rows_384}"] if arguments.rows_384 else [])


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument(
        "names", nargs="*", metavar="NAME", help=f"{', '.join(BENCHMARKS)}; or page; all if none"
    )
    parser.add_argument("--scale", type=float, default=FULL, help="share of the published sizes; kept apart")
    parser.add_argument("--rounds", type=int, default=0, help="rounds of each comparison")
    parser.add_argument("--rows", type=int, default=0, help="records of `million` at 64 dimensions")
    parser.add_argument("--rows-384", type=int, default=0, help="records of `million` at 384 dimensions")
    arguments = parser.parse_args()
    unknown = [name for name in arguments.names if name not in BENCHMARKS and arguments.names != ["page"]]
    if unknown:
        parser.error(
            f"no benchmark is called {', '.join(unknown)}; there are: {', '.join(BENCHMARKS)}, or page"
        )
    return arguments


if __name__ == "__main__":
    sys.exit(main())
