"""The machine of the measurements, and other load on it."""

from __future__ import annotations

import os
import platform
import statistics
import threading
import time
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Self

import psutil

from flowbed.embedding.local.cores import usable_cores

PACKAGES = ("flowbed", "pylance", "onnxruntime", "tokenizers", "numpy", "pyarrow")
PEERS = ("chromadb", "sentence-transformers", "torch")
PINS = Path(__file__).parent / "peers.txt"
# Other processes that use more of a core than this affect the figures.
BUSY = 0.25


@dataclass(frozen=True, kw_only=True)
class Load:
    """The load average during a measurement, and the cores that others used (processes, virtual machines)."""

    mean: float
    most: float
    others: float

    @property
    def busy(self) -> bool:
        """Whether other load affected the figures."""
        return self.others > BUSY

    def __str__(self) -> str:
        """Describe it in a line."""
        text = f"load average {self.mean:.1f}, at most {self.most:.1f}; others used {max(0, self.others):.2f} cores"
        return f"{text}: **the machine was busy**" if self.busy else text


class Watch:
    """Samples the machine's load until it is asked for it."""

    def __init__(self) -> None:
        """Read the counters."""
        self._began, self._all, self._own = time.monotonic(), _all_seconds(), _own_seconds()
        self._seen = [load()]
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)

    def __enter__(self) -> Self:
        """Start sampling the load average."""
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Stop sampling."""
        self._ended.set()
        self._thread.join()

    def load(self) -> Load:
        """Return the load; all processes started by the benchmark must have ended."""
        wall = time.monotonic() - self._began
        others = (_all_seconds() - self._all) - (_own_seconds() - self._own)
        return Load(mean=statistics.mean(self._seen), most=max(self._seen), others=others / wall)

    def _look(self) -> None:
        while not self._ended.wait(5):
            self._seen.append(load())


def described() -> list[str]:
    """Describe CPU, memory, system and versions."""
    memory = f"{psutil.virtual_memory().total / 2**30:.0f} GiB of memory"
    system = f"{platform.system()} {platform.machine()}, Python {platform.python_version()}"
    pins = dict(line.split("==") for line in PINS.read_text("utf-8").split())
    return [
        f"{usable_cores()} cores of {processor()}, {memory}",
        system,
        ", ".join(f"{name} {version(name)}" for name in PACKAGES),
        "compared with " + ", ".join(f"{name} {pins[name]}" for name in PEERS),
    ]


def processor() -> str:
    """Name the CPU, with the extensions that decide how fast a model runs."""
    try:
        cpuinfo = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        return platform.processor() or "an unnamed processor"
    facts: dict[str, str] = {}
    for line in cpuinfo.splitlines():
        name, _, value = line.partition(":")
        facts[name.strip()] = value.strip()
    kinds = [name for name in ("avx2", "avx512f", "avx512_vnni") if name in facts.get("flags", "").split()]
    return f"{facts.get('model name', 'an unnamed processor')} ({', '.join(kinds) or 'no AVX2'})"


def load() -> float:
    """Return how many processes wanted a core in the last minute, including ours."""
    return os.getloadavg()[0]


def _all_seconds() -> float:
    """Return the seconds that cores were busy for any process; `steal` is time used by other virtual machines."""
    spent = psutil.cpu_times()
    return sum(getattr(spent, name, 0.0) for name in ("user", "system", "irq", "softirq", "steal"))


def _own_seconds() -> float:
    """Return the CPU seconds of this process and of its children that have ended."""
    return sum(os.times()[:4])
