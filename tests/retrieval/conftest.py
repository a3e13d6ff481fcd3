"""Imports the measurements that these tests share with `make bench` from a folder beside `tests`."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))
