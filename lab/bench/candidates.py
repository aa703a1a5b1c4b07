"""The services that are compared: how each is installed, started, and watched."""

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Self

import httpx
import psutil
from sqlalchemy import URL

from nutshell.tests.postgres import free_port

ROOT = Path(__file__).parents[2]
PEERS = Path(__file__).with_name("peers")
ENVIRONMENTS = ROOT / ".venv-bench"
TOKEN = "sesame"
POOL = 10


@dataclass
class Candidate:
    name: str
    title: str
    command: Sequence[str]  # with {port}, run in `folder` with the environment's programs first
    folder: Path
    driver: str = "postgresql"
    variables: dict[str, str] = field(default_factory=dict)
    # What it does for each request besides the operation itself: DUTIES, and when.
    duties: Mapping[str, str] = field(default_factory=dict)

    @property
    def environment(self) -> Path:
        return ENVIRONMENTS / self.folder.name

    def install(self) -> None:
        """Raises RuntimeError with the reason when it cannot be installed here."""
        self.environment.mkdir(parents=True, exist_ok=True)
        if (self.folder / "package.json").exists():
            if shutil.which("npm") is None:
                raise RuntimeError("node is not installed")
            for name in ("package.json", "package-lock.json", "tsconfig.json"):
                shutil.copy(self.folder / name, self.environment)
            shutil.copytree(self.folder / "src", self.environment / "src", dirs_exist_ok=True)
            run("npm", "ci", "--no-audit", "--no-fund", "--silent", folder=self.environment)
            run("npm", "run", "--silent", "build", folder=self.environment)
        else:
            uv = Path(sys.executable).with_name("uv")
            python = self.environment / "bin/python"
            run(uv, "venv", "--quiet", "--clear", "--python", sys.executable, self.environment)
            requirements = self.folder / "requirements.txt"
            run(
                uv, "pip", "install", "--quiet", "--no-deps", "--python", python, "-r", requirements
            )

    def variables_for(self, url: URL) -> dict[str, str]:
        if url.get_backend_name() == "postgresql":
            url = url.set(drivername=self.driver)
        database = url.render_as_string(hide_password=False)
        programs = f"{self.environment}/bin:{os.environ['PATH']}"
        return {"PATH": programs, "DATABASE_URL": database} | self.variables

    def run(self, *command: str, url: URL) -> None:
        run(*command, folder=self.folder, environment=self.variables_for(url))

    def start(self, url: URL, **variables: str | int) -> "Running":
        return Running(self, url, variables)


def run(
    *command: str | Path, folder: Path = ROOT, environment: dict[str, str] | None = None
) -> None:
    done = subprocess.run(
        command,
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    if done.returncode != 0:
        raise RuntimeError(done.stdout[-500:] + done.stderr[-500:])


class Running:
    """A candidate's processes, from their start to the end of the `with` block."""

    def __init__(self, candidate: Candidate, url: URL, variables: dict[str, str | int]) -> None:
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.log = candidate.environment / f"{candidate.name}.log"
        environment = candidate.variables_for(url) | {"PORT": str(self.port)}
        environment |= {name: str(value) for name, value in variables.items()}
        folder = candidate.folder
        if (folder / "package.json").exists():
            folder = candidate.environment
        with self.log.open("w") as log:
            self.process = psutil.Popen(
                [word.format(port=self.port) for word in candidate.command],
                cwd=folder,
                env=environment,
                stdout=log,
                stderr=log,
            )

    def __enter__(self) -> Self:
        began = time.monotonic()
        with self.client() as client:
            while True:
                try:
                    client.get("/users/0")
                except httpx.TransportError:
                    if time.monotonic() > began + 20 or self.process.poll() is not None:
                        self.process.kill()
                        raise RuntimeError(self.log.read_text()[-2000:]) from None
                    time.sleep(0.01)
                else:
                    self.start = time.monotonic() - began  # seconds to the first answer
                    return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> None:
        self.process.terminate()
        try:
            self.process.wait(30)
        except psutil.TimeoutExpired:
            self.process.kill()

    def client(self) -> httpx.Client:
        headers = {"authorization": f"Bearer {TOKEN}"}
        return httpx.Client(base_url=self.url, headers=headers, timeout=10)

    def cpu(self) -> float:
        """Seconds of CPU time that all its processes have used."""
        return cpu(self.process)

    def memory(self) -> float:
        """Megabytes of all its processes; what they share counts once."""
        return float(sum(each.memory_full_info().pss for each in family(self.process))) / 1e6


def family(process: psutil.Process) -> list[psutil.Process]:
    return [process, *process.children(recursive=True)]


def cpu(process: psutil.Process) -> float:
    """Seconds of CPU time of the process and of its children, those that have ended included."""
    seconds = 0.0
    for each in family(process):
        with suppress(psutil.NoSuchProcess):  # its parent has its time by now
            seconds += sum(each.cpu_times()[:4])
    return seconds


def pin(process: psutil.Process, cores: Sequence[int]) -> None:
    """Keeps the threads of the process and of its children on these cores."""
    for each in family(process):
        for thread in each.threads():
            os.sched_setaffinity(thread.id, cores)


DUTIES = ["log line", "token", "ETag", "row lock", "transaction"]
IN_TRANSACTION = {"transaction": "always"}

UVICORN = ("uvicorn", "main:app", "--port", "{port}", "--no-access-log")
GUNICORN = (
    *("gunicorn", "main:application", "--bind", "127.0.0.1:{port}"),
    *("--threads", str(POOL)),
)
ASYNCPG = "postgresql+asyncpg"

OURS = Candidate(
    "nutshell",
    "Nutshell",
    ("python", "-m", "nutshell"),
    ROOT,
    variables={"API_TOKEN": TOKEN, "POOL_SIZE": str(POOL)},
    duties={
        "log line": "always",
        "token": "always",
        "ETag": "always",
        "row lock": "PATCH",
        "transaction": "POST, PATCH",
    },
)
TUTORIAL = Candidate(
    "tutorial",
    "FastAPI + SQLModel, the tutorial",
    UVICORN,
    PEERS / "tutorial",
    "postgresql+psycopg",
    duties=IN_TRANSACTION,
)
ASYNC = Candidate(
    "async",
    "FastAPI + SQLModel, async, asyncpg",
    UVICORN,
    PEERS / "async",
    ASYNCPG,
    duties=IN_TRANSACTION,
)
FASTCRUD = Candidate(
    "fastcrud", "FastCRUD, asyncpg", UVICORN, PEERS / "fastcrud", ASYNCPG, duties=IN_TRANSACTION
)
LITESTAR = Candidate(
    "litestar",
    "Litestar + advanced-alchemy, asyncpg",
    UVICORN,
    PEERS / "litestar",
    ASYNCPG,
    duties=IN_TRANSACTION,
)
DRF = Candidate(
    "drf",
    "Django REST framework, a transaction per request",
    GUNICORN,
    PEERS / "drf",
    duties=IN_TRANSACTION,
)
NINJA_ATOMIC = Candidate(
    "ninja_atomic",
    "Django Ninja, a transaction per request",
    GUNICORN,
    PEERS / "ninja",
    variables={"ATOMIC_REQUESTS": "1"},
    duties=IN_TRANSACTION,
)
NINJA = Candidate("ninja", "Django Ninja, each statement by itself", GUNICORN, PEERS / "ninja")
NESTJS = Candidate(
    "nestjs",
    "NestJS + TypeORM",
    ("node", "dist/main.js"),
    PEERS / "nestjs",
    duties={"transaction": "POST, PATCH"},
)
BARE = Candidate("bare", "bare ASGI + asyncpg", UVICORN, PEERS / "bare")
ON_SQLALCHEMY = [TUTORIAL, FASTCRUD, LITESTAR, ASYNC]
PYTHON_PEERS = [*ON_SQLALCHEMY, DRF, NINJA_ATOMIC, NINJA]
CANDIDATES = [OURS, *PYTHON_PEERS, NESTJS, BARE]
