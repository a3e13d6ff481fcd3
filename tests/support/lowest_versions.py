"""Print the lowest version that pyproject.toml allows of each direct dependency, one `name==version` a line."""

from __future__ import annotations

import re
import sys
import tomllib
from pathlib import Path

# The extras that `make lowest` tests along: sentence-transformers would bring torch.
EXTRAS = (
    "aws",
    "chroma",
    "code",
    "documents",
    "faiss",
    "mcp",
    "multilingual",
    "otel",
    "postgres",
    "redis",
    "workers",
)
LOWER = re.compile(r"^(?P<name>[A-Za-z0-9._-]+)(?P<extra>\[[a-z]+\])?>=(?P<version>[0-9.]+)")


def lowest(pyproject: str) -> list[str]:
    """Return a requirement at its lower bound for each dependency in the text of `pyproject`.

    Raises:
        ValueError: a dependency has no lower bound.
    """
    project = tomllib.loads(pyproject)["project"]
    wanted = [*project["dependencies"]]
    for extra in EXTRAS:
        wanted += project["optional-dependencies"].get(extra, [])
    found = []
    for each in wanted:
        match = LOWER.match(each)
        if match is None:
            raise ValueError(
                f"{each!r} has no lower bound: write 'name>=version', the oldest version that is tested"
            )
        found.append(f"{match['name']}{match['extra'] or ''}=={match['version']}")
    return found


if __name__ == "__main__":
    sys.stdout.write("\n".join(lowest(Path("pyproject.toml").read_text("utf-8"))) + "\n")
