"""An S3 server for tests: moto's, in another process on a free port of 127.0.0.1.

    with S3Server() as server:
        server.make_bucket("bucket")
        store = open_store("s3://bucket/prefix", folder=Path(), options={"endpoint": server.url, "region": REGION})

Two things differ from S3. Moto checks a condition and writes in two steps, so two concurrent writers may both win: here
the writes of one key wait for each other. And it does not check signatures: any keys will do, such as those of
`variables`. It answers some 200 requests a second.

`python -m tests.support.servers.s3` prints its address, and serves until its standard input ends.
"""

from __future__ import annotations

import logging
import sys
import threading
import urllib.request
from typing import TYPE_CHECKING, Any

from tests.support.processes.module_server import ModuleServer

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    Application = Callable[[dict[str, Any], Callable[..., Any]], Iterable[bytes]]

REGION = "us-east-1"
# Keys that share a lock wait for each other.
LOCKS = 64
READING = {"GET", "HEAD"}


def variables(url: str) -> dict[str, str]:
    """Return the environment in which S3 is the server, or the proxy, at `url`."""
    return {
        "AWS_ENDPOINT_URL": url,
        "AWS_REGION": REGION,
        "AWS_ACCESS_KEY_ID": "testing",
        "AWS_SECRET_ACCESS_KEY": "testing",
    }


class S3Server(ModuleServer):
    """A server without buckets, which runs during a `with` block; all data is in memory."""

    def __init__(self) -> None:
        """Start nothing."""
        super().__init__("tests.support.servers.s3", needs="moto[s3]")

    def make_bucket(self, name: str) -> None:
        """Create an empty bucket, unless it exists."""
        request = urllib.request.Request(f"{self.url}/{name}", data=b"", method="PUT")  # noqa: S310 - our own http address
        with urllib.request.urlopen(request, timeout=30):  # noqa: S310
            pass


def mended(serve: Application) -> Application:
    """Serialise the writes of each key, and send one `Server` header."""
    locks = [threading.Lock() for _ in range(LOCKS)]

    def serve_in_turn(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        def start(status: str, headers: list[tuple[str, str]], *rest: Any) -> Any:  # WSGI's own
            # Strict clients refuse a second `Server`.
            return start_response(status, [each for each in headers if each[0].lower() != "server"], *rest)

        if environ["REQUEST_METHOD"] in READING:
            return serve(environ, start)
        with locks[hash(environ["PATH_INFO"]) % LOCKS]:
            return serve(environ, start)

    return serve_in_turn


def main() -> None:
    """Serve until standard input ends."""
    # Loaded by the server only.
    from moto.moto_server.werkzeug_app import MotoRequestHandler, create_backend_app
    from werkzeug.serving import make_server

    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = make_server(
        "127.0.0.1", 0, mended(create_backend_app("s3")), threaded=True, request_handler=MotoRequestHandler
    )
    threading.Thread(target=server.serve_forever, daemon=True).start()
    sys.stdout.write(f"http://127.0.0.1:{server.port}\n")
    sys.stdout.flush()
    sys.stdin.read()


if __name__ == "__main__":
    main()
