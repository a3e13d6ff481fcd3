"""Flowbed's side of publishing Chroma directories: changed rows are committed, and then published as a snapshot."""

from __future__ import annotations

import shutil
import time
from pathlib import Path
from typing import Any

from benchmarks.sides.flowbed_rows import COLLECTION, Opened
from benchmarks.sides.serve import serve
from flowbed.wiring.process import set_up


class Publisher(Opened):
    """A project whose rows are published."""

    def configure(self, folder: str) -> None:
        """Add the publication to the settings of a project that was begun."""
        with Path(folder, "flowbed.toml").open("a", encoding="utf-8") as file:
            file.write(f'\n[publish.{COLLECTION}]\nkind = "chroma"\nevery = "manual"\n')

    def snapshot(self, *, elsewhere: bool = False) -> dict[str, Any]:
        """Publish the newest version; `elsewhere`, as a machine that has not published before."""
        if elsewhere:
            shutil.rmtree(self._folder / ".flowbed" / "publish", ignore_errors=True)
        began = time.perf_counter()
        report = self._loop.run(self.bed.publish(COLLECTION))
        seconds = time.perf_counter() - began
        if report.failures:
            raise RuntimeError(report.failures[0].reason)
        (done,) = report.published
        return {"seconds": seconds, "uploaded": done.uploaded, "upserts": done.upserts, "rows": done.rows}


if __name__ == "__main__":
    set_up()  # as the command does it
    opened = Publisher()
    serve(
        {
            "begin": opened.begin,
            "configure": opened.configure,
            "open": opened.open,
            "build": opened.build,
            "publish": opened.publish,
            "snapshot": opened.snapshot,
        }
    )
