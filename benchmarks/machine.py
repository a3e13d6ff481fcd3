"""What the measurements were made on."""

from __future__ import annotations

import os
import platform
from importlib.metadata import version
from pathlib import Path

import psutil

from flowbed.embedding.cores import usable_cores

PACKAGES = ("flowbed", "pylance", "onnxruntime", "tokenizers", "numpy", "pyarrow")


def described() -> str:
    """Describe processor, memory, system and versions as a list."""
    memory = f"{psutil.virtual_memory().total / 2**30:.0f} GiB of memory"
    system = f"{platform.system()} {platform.machine()}, Python {platform.python_version()}"
    return "\n".join(
        (
            f"- {usable_cores()} cores of {processor()}, {memory}",
            f"- {system}",
            f"- {', '.join(f'{name} {version(name)}' for name in PACKAGES)}",
        )
    )


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
