"""What the measurements were made on, and what else it was doing meanwhile."""

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
# Other processes that keep this much of a core busy are seen in the figures.
BUSY = 0.25


@dataclass(frozen=True, kw_only=True)
class Load:
    """The load average during a measurement, and the cores that others kept busy: other processes, other machines."""

    mean: float
    most: float
    others: float

    @property
    def busy(self) -> bool:
        """Whether others took part in the figures."""
        return self.others > BUSY

    def __str__(self) -> str:
        """Say it in a line."""
        told = f"load average {self.mean:.1f}, at most {self.most:.1f}; others used {max(0, self.others):.2f} cores"
        return f"{told}: **the machine was busy**" if self.busy else told


class Watch:
    """Watches the machine until it is asked for the load."""

    def __init__(self) -> None:
        """Note where the counters stand."""
        self._began, self._all, self._own = time.monotonic(), _all_seconds(), _own_seconds()
        self._seen = [load()]
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)

    def __enter__(self) -> Self:
        """Begin to look at the load average."""
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Look no more."""
        self._ended.set()
        self._thread.join()

    def load(self) -> Load:
        """Tell what was seen; all processes that were started here have to have ended."""
        wall = time.monotonic() - self._began
        others = (_all_seconds() - self._all) - (_own_seconds() - self._own)
        return Load(mean=statistics.mean(self._seen), most=max(self._seen), others=others / wall)

    def _look(self) -> None:
        while not self._ended.wait(5):
            self._seen.append(load())


def described() -> list[str]:
    """Describe processor, memory, system and versions."""
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
    """Name the processor, with the extensions that decide how fast a model runs."""
    try:
        told = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        return platform.processor() or "an unnamed processor"
    facts: dict[str, str] = {}
    for line in told.splitlines():
        name, _, value = line.partition(":")
        facts[name.strip()] = value.strip()
    kinds = [name for name in ("avx2", "avx512f", "avx512_vnni") if name in facts.get("flags", "").split()]
    return f"{facts.get('model name', 'an unnamed processor')} ({', '.join(kinds) or 'no AVX2'})"


def load() -> float:
    """Tell how many processes wanted a core in the last minute, ours among them."""
    return os.getloadavg()[0]


def _all_seconds() -> float:
    """Count the seconds that cores were busy, for whomever; `steal` is time that went to other machines."""
    spent = psutil.cpu_times()
    return sum(getattr(spent, name, 0.0) for name in ("user", "system", "irq", "softirq", "steal"))


def _own_seconds() -> float:
    """Count the seconds that this process and those it started, and that have ended, kept a core busy."""
    return sum(os.times()[:4])
