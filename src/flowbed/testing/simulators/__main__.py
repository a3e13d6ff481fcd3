"""Serve one simulator; `SimulatorProcess` starts this."""

from __future__ import annotations

import sys

import orjson

from flowbed.testing.simulators.serving.process import run, serve

if __name__ == "__main__":
    run(serve(orjson.loads(sys.argv[1])))
