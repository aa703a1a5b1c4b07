"""A service as a platform runs it: a process of its own, called over real HTTP.

It serves the library, with this project's own Procfile, settings and requirements. What tests the
service upstairs passes `tree=checkout()`.
"""

import atexit
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from types import TracebackType
from typing import Self

import httpx
from sqlalchemy import URL

from nutshell.tests.postgres import Postgres, call_off, free_port, run_when_gone

ROOT = Path(__file__).parents[2]
Variables = dict[str, str | URL | int]
TOKEN = "open-sesame"
BEARER = {"authorization": f"Bearer {TOKEN}"}


def plain_environment(
    bin_folder: Path | None = None, **variables: str | URL | int
) -> dict[str, str]:
    """What every process needs, and nothing of the developer's own environment."""
    folder = bin_folder or Path(sys.executable).parent
    environment = {
        "PATH": f"{folder}:/usr/local/bin:/usr/bin:/bin",
        "HOME": tempfile.gettempdir(),
        "PYTHONUNBUFFERED": "",
    }
    for name, value in variables.items():
        if isinstance(value, URL):
            value = as_platforms_write(value)
        environment[name] = str(value)
    return environment


def as_platforms_write(url: URL) -> str:
    if url.get_backend_name() == "postgresql":
        url = url.set(drivername="postgres")
    return url.render_as_string(hide_password=False)


def procfile(tree: Path = ROOT) -> dict[str, str]:
    """The lines of the Procfile by process type, as a naive reader splits them."""
    lines = (tree / "Procfile").read_text().splitlines()
    return {name: command.strip() for name, command in (line.split(":", 1) for line in lines)}


def copy_tree(folder: Path) -> Path:
    """What a platform checks out: the files that git tracks, or would."""
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"],
        cwd=ROOT,
        check=True,
        capture_output=True,
        text=True,
    )
    for name in filter(None, listed.stdout.split("\0")):
        if not (ROOT / name).exists():  # deleted, but git does not know it yet
            continue
        target = folder / name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, target)
    return folder


MIGRATION = '''
"""Create the library."""

from alembic import op
from sqlmodel import SQLModel

revision, down_revision = "0001", None

def upgrade() -> None:
    SQLModel.metadata.create_all(op.get_bind())

def downgrade() -> None:
    SQLModel.metadata.drop_all(op.get_bind())
'''


def copy_library(folder: Path) -> Path:
    """The same, with the library in place of the service."""
    copy_tree(folder)
    shutil.copy(ROOT / "nutshell/tests/library.py", folder / "main.py")
    (folder / "models.py").write_text("import main\n")
    shutil.rmtree(folder / "migrations/versions")
    (folder / "migrations/versions").mkdir()
    (folder / "migrations/versions/0001_create_the_library.py").write_text(MIGRATION)
    return folder


# One copy each for all services that change nothing. The developer's `.env` is not in it.


@cache
def checkout() -> Path:
    return copy_tree(temporary_folder())


@cache
def library_checkout() -> Path:
    return copy_library(temporary_folder())


def temporary_folder() -> Path:
    folder = Path(tempfile.mkdtemp(prefix="nutshell-tree-"))
    atexit.register(shutil.rmtree, folder)
    return folder


def alembic(
    url: URL | str, *arguments: str, tree: Path | None = None
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "alembic", *arguments],
        cwd=tree or library_checkout(),
        env=plain_environment(DATABASE_URL=url),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def migrate(url: URL | str, tree: Path | None = None) -> None:
    done = alembic(url, "upgrade", "head", tree=tree)
    assert done.returncode == 0, done.stderr


def children(pid: int) -> list[int]:
    listed = subprocess.run(
        ["ps", "-o", "pid=", "--ppid", str(pid)], capture_output=True, check=False
    )  # it fails when there are none
    return [int(word) for word in listed.stdout.split()]


def freeze(pid: int) -> list[int]:
    """Stops the process, so that it makes no more children, and then those that it has."""
    os.kill(pid, signal.SIGSTOP)
    found = children(pid)
    for child in found:
        with suppress(ProcessLookupError):  # it may have ended in the meantime
            os.kill(child, signal.SIGSTOP)
    return [pid, *found]


def thaw(pids: list[int]) -> None:
    for pid in pids:
        with suppress(ProcessLookupError):  # the first may end the others as soon as it goes on
            os.kill(pid, signal.SIGCONT)


@contextmanager
def frozen(server: Postgres) -> Iterator[None]:
    """The server neither answers nor closes a connection until the block ends."""
    pids = freeze(server.process.pid)
    try:
        yield
    finally:
        thaw(pids)


def workers(pid: int) -> list[int]:
    """The children that serve; another is multiprocessing's own."""
    found = []
    for child in children(pid):
        with suppress(FileNotFoundError, ProcessLookupError):  # it may have ended in the meantime
            if b"spawn_main" in Path(f"/proc/{child}/cmdline").read_bytes():
                found.append(child)
    return found


def resident_megabytes(pid: int) -> float:
    status = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in status if line.startswith("VmRSS")) / 1000


def sockets(pid: int) -> int:
    """How many sockets the process has open."""
    found = 0
    for entry in Path(f"/proc/{pid}/fd").iterdir():
        with suppress(FileNotFoundError):  # it may have been closed in the meantime
            found += os.readlink(entry).startswith("socket:")
    return found


class Service:
    """`web` of the Procfile in a process group of its own. Its log is in `log`."""

    def __init__(
        self,
        variables: Variables | None = None,
        *,
        tree: Path | None = None,
        bin_folder: Path | None = None,
        wrapper: Sequence[str] = (),
        port: int | None = None,
        reload: bool = False,
        command: Sequence[str] = (),
    ) -> None:
        """`wrapper` is a command that runs the one given to it. Port 8000 is the default's.

        With `reload` it is the service of `make run`. A platform may have a `command` of its own.
        """
        self.port = port or free_port()
        environment = plain_environment(bin_folder, **variables or {})
        if self.port != 8000:
            environment["PORT"] = str(self.port)
        self.url = f"http://127.0.0.1:{self.port}"
        descriptor, name = tempfile.mkstemp(prefix="nutshell-log-")
        os.close(descriptor)
        self.log = Path(name)
        line = procfile()["web"] + " --reload" * reload
        with self.log.open("w") as log:
            self.process = subprocess.Popen(
                [*wrapper, *(command or ("bash", "-c", f"exec {line}"))],
                cwd=tree or library_checkout(),
                env=environment,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self.killer = run_when_gone("kill -s KILL -- -$1", self.process.pid)
        self.started = time.monotonic()

    def wait_until_up(self, timeout: float = 60) -> float:
        """Seconds from the start of the process to its first answer."""
        while True:
            try:
                httpx.get(f"{self.url}/healthz", timeout=5).raise_for_status()
            except httpx.HTTPError:
                if time.monotonic() > self.started + timeout or self.process.poll() is not None:
                    raise RuntimeError(self.log.read_text()) from None
                time.sleep(0.02)
            else:
                return time.monotonic() - self.started

    def __enter__(self) -> Self:
        try:
            self.wait_until_up()
        except BaseException:
            self.kill()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> None:
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(30)
            except subprocess.TimeoutExpired:
                self.kill()
                raise
        call_off(self.killer)
        if exc is not None:
            print(self.log.read_text())  # pytest shows it with the failure
        self.log.unlink()

    def kill(self) -> None:
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait(10)
        call_off(self.killer)

    def client(self, timeout: float = 30) -> httpx.Client:
        return httpx.Client(base_url=self.url, headers=BEARER, timeout=timeout)
