"""The services that are compared: how each is installed, started, and watched."""

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
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

    @property
    def environment(self) -> Path:
        return ENVIRONMENTS / self.name

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
        self.log = candidate.environment / "log"
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
        deadline = time.monotonic() + 20
        while True:
            try:
                self.client().get("/users/0")
            except httpx.TransportError:
                if time.monotonic() > deadline or self.process.poll() is not None:
                    raise RuntimeError(self.log.read_text()[-2000:]) from None
                time.sleep(0.05)
            else:
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


def cpu(process: psutil.Process) -> float:
    """Seconds of CPU time of the process and of its children."""
    times = [each.cpu_times() for each in (process, *process.children(recursive=True))]
    return float(sum(spent.user + spent.system for spent in times))


UVICORN = ("uvicorn", "main:app", "--port", "{port}", "--no-access-log")

OURS = Candidate(
    "nutshell",
    "Nutshell",
    ("python", "-m", "nutshell"),
    ROOT,
    variables={"API_TOKEN": TOKEN, "POOL_SIZE": str(POOL)},
)
TUTORIAL = Candidate(
    "tutorial",
    "FastAPI + SQLModel, the tutorial",
    UVICORN,
    PEERS / "tutorial",
    "postgresql+psycopg",
)
NINJA = Candidate(
    "ninja",
    "Django Ninja, gunicorn",
    ("gunicorn", "main:application", "--bind", "127.0.0.1:{port}", "--threads", str(POOL)),
    PEERS / "ninja",
)
LITESTAR = Candidate(
    "litestar",
    "Litestar + advanced-alchemy",
    UVICORN,
    PEERS / "litestar",
    "postgresql+asyncpg",
)
NESTJS = Candidate("nestjs", "NestJS + TypeORM", ("node", "dist/main.js"), PEERS / "nestjs")
BARE = Candidate("bare", "bare ASGI + asyncpg", UVICORN, PEERS / "bare")
CANDIDATES = [OURS, TUTORIAL, NINJA, LITESTAR, NESTJS, BARE]
PYTHON_PEERS = [TUTORIAL, NINJA, LITESTAR]
