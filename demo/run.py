"""Index and search text that is on every machine, then run again at no cost. Needs no network.

Run it with `make demo`, or as `.venv/bin/python demo/run.py [FOLDER]`; FOLDER defaults to `.demo` in the repository.
"""  # noqa: INP001 - a script, in no package

from __future__ import annotations

import argparse
import json
import re
import shlex
import shutil
import subprocess
import sys
from importlib.metadata import metadata, requires, version
from pathlib import Path
from pydoc_data.topics import topics

HERE = Path(__file__).resolve().parent
RECEIPTS = HERE / "receipts.jsonl"
# The demo empties only a folder that contains this file.
MARK = "made-by-the-demo"

# With the receipts this makes at most 1,200 chunks, which two cores embed in well under a minute.
TOPIC_CHARACTERS = 320_000
README_CHARACTERS = 8_000


def main() -> int:
    """Make the project, index it, search it, and index it again."""
    parser = argparse.ArgumentParser(description="See Flowbed work on text that is on every machine.")
    parser.add_argument("folder", nargs="?", type=Path, default=HERE.parent / ".demo")
    folder = parser.parse_args().folder.absolute()
    if folder.exists() and any(folder.iterdir()) and not (folder / MARK).exists():
        say(f"{folder} contains something other than an earlier demo; name an empty folder")
        return 2
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    (folder / MARK).touch()
    say(f"Flowbed {version('flowbed')}, in {shown(folder)}. Nothing here leaves this machine.")
    write_topics(folder / "topics.jsonl")
    write_readmes(folder / "readmes")
    shutil.copyfile(RECEIPTS, folder / "receipts.jsonl")
    count = len(RECEIPTS.read_text("utf-8").splitlines())
    say(f"receipts.jsonl: {count} receipts, invented for this demo and of no real shop")
    for title, commands in STORY:
        say(f"\n# {title}")
        for command in commands:
            say(f"$ flowbed {shlex.join(command)}")
            status = subprocess.call([sys.executable, "-m", "flowbed", *command], cwd=folder)  # noqa: S603 - ours
            if status:
                say(f"\nThe demo stops here: the command above ended with status {status} and says why.")
                return status
    say("\nSearch it in a browser: make page")
    say(f"Look around: cd {shown(folder)} && {Path(sys.executable).parent / 'flowbed'} --help")
    return 0


STORY: list[tuple[str, list[list[str]]]] = [
    (
        "A project is a folder. Three sources go into four collections: receipts have one for lines, one for words.",
        [
            ["init"],
            ["add", "topics", "jsonl", "topics.jsonl"],
            ["add", "readmes", "files", "readmes"],
            ["add", "receipts", "receipts", "receipts.jsonl"],
        ],
    ),
    ("What would a run do, and what would it cost?", [["plan"]]),
    ("Chunk, embed on this machine, and commit.", [["run"], ["status"]]),
    (
        "Search everything at once.",
        [["search", "when are default values of parameters evaluated", "-n", "3"]],
    ),
    (
        "Search one collection, filtered by its metadata.",
        [
            [
                "search",
                "tablets against pain",
                "-c",
                "lines",
                "-n",
                "3",
                "--where",
                json.dumps({"merchant_name": "STARLIGHT PHARMACY"}),
            ]
        ],
    ),
    (
        "Search the READMEs of the packages that Flowbed is built on, each counted once, by its best passage.",
        [
            [
                "search",
                "colours and tables in the terminal",
                "-c",
                "readmes",
                "-n",
                "3",
                "--by-document",
            ]
        ],
    ),
    ("Nothing has changed, so running again embeds nothing.", [["run"]]),
]


def write_topics(path: Path) -> None:
    """Write Python's own help topics as records, the shortest first, up to the limit."""
    chosen: dict[str, str] = {}
    characters = 0
    for name, text in sorted(topics.items(), key=lambda item: (len(item[1]), item[0])):
        characters += len(text)
        if characters > TOPIC_CHARACTERS:
            break
        chosen[name] = text
    records = [{"id": name, "title": name, "text": chosen[name]} for name in sorted(chosen)]
    path.write_text("".join(f"{json.dumps(record)}\n" for record in records), encoding="utf-8")
    say(f"topics.jsonl: {len(chosen)} of the {len(topics)} help topics of Python, the longest left out")


def write_readmes(folder: Path) -> None:
    """Write the README of each package that Flowbed directly depends on, long ones cut at a line."""
    folder.mkdir()
    written = cut = 0
    for requirement in requires("flowbed") or ():
        name = re.match(r"[\w.-]+", requirement)
        if name is None or "extra ==" in requirement:
            continue
        package = metadata(name[0])
        readme = package.get("Description") or str(package.get_payload())
        text = readme[:README_CHARACTERS]
        if text != readme:
            text = text[: text.rfind("\n") + 1]
            cut += 1
        # Without a declared type it is reStructuredText, according to the packaging rules.
        suffix = ".md" if "markdown" in (package.get("Description-Content-Type") or "") else ".rst"
        (folder / f"{name[0]}{suffix}").write_text(text, encoding="utf-8")
        written += 1
    say(f"readmes/: the READMEs of {written} packages, {cut} of them cut at {README_CHARACTERS:,} characters")


def shown(path: Path) -> str:
    """Return a path as one would type it here."""
    return str(path.relative_to(Path.cwd())) if path.is_relative_to(Path.cwd()) else str(path)


def say(text: str) -> None:
    """Print a line, before what the next command prints."""
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
