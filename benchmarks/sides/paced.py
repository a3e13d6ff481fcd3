"""Send requests to an HTTP server with pauses over one connection, and return how long each took."""

from __future__ import annotations

import http.client
import random
import time
from pathlib import Path
from urllib.parse import urlsplit

from benchmarks.sides.serve import serve

HEADERS = {"Content-Type": "application/json", "Authorization": "Bearer none"}


def ask(url: str, bodies: str, pause: float) -> list[float]:
    """Send each line of a file as a body, `pause` seconds after the last answer, randomly varied by half."""
    target = urlsplit(url)
    connection = http.client.HTTPConnection(str(target.hostname), target.port)
    chance = random.Random(0)
    seconds = []
    for body in Path(bodies).read_bytes().splitlines():
        time.sleep(pause * chance.uniform(0.5, 1.5))
        began = time.perf_counter()
        connection.request("POST", target.path, body, HEADERS)
        answer = connection.getresponse()
        received = answer.read()
        seconds.append(time.perf_counter() - began)
        if answer.status != 200:
            raise RuntimeError(f"this is no answer to measure: {received[:300]!r}")
    connection.close()
    return seconds


if __name__ == "__main__":
    serve({"ask": ask})
