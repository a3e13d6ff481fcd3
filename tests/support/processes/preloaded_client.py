"""The client of `preloaded`: `python -S -E preloaded_client.py SOCKET MODULE [ARGUMENT ...]`."""

import json
import os
import signal
import socket
import sys


def main() -> None:
    """Pass everything on, and end as the fork does."""
    path, module, *arguments = sys.argv[1:]
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as server:
        server.connect(path)
        asked = {
            "module": module,
            "arguments": arguments,
            "folder": os.getcwd(),  # noqa: PTH109 - pathlib is slow to load
            "environment": dict(os.environ),
        }
        whole = json.dumps(asked).encode() + b"\n"
        sent = socket.send_fds(server, [whole], [0, 1, 2])
        # Sending nothing fails too if the fork has ended by now.
        if sent < len(whole):
            server.sendall(whole[sent:])
        # The streams are the fork's: its reader must find their end when it ends.
        for stream in (0, 1, 2):
            os.close(stream)
        status = int(server.recv(16) or b"-9")  # the server has ended
    if status >= 0:
        os._exit(status)
    signal.signal(-status, signal.SIG_DFL) if -status not in {signal.SIGKILL, signal.SIGSTOP} else None
    os.kill(os.getpid(), -status)


main()
