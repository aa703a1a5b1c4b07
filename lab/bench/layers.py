"""Where the instructions of a request go, layer by layer. `make layers` runs it; it needs valgrind.

Instructions are counted (valgrind's callgrind) and not timed, because they repeat to three percent on any
machine, and because layers timed in loops of their own do not add up. Each layer is the difference of two
versions of the service, of which one does one thing more: see rungs.py.
"""

import itertools
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from types import TracebackType
from typing import Any, Self

import httpx
from sqlalchemy import URL

from lab.bench.candidates import ON_SQLALCHEMY, OURS, TOKEN, Candidate
from lab.bench.report import table, versions, write
from lab.bench.run import FILL, OPERATIONS
from nutshell.tests.postgres import Postgres, free_port

LADDERS = {"GET one": "/users/77", "list of 50": "/users?limit=50"}
PARAMETERS = "parameters: path; query, reply"
# What each rung of rungs.py adds, from the lowest.
LAYERS = [
    "server: HTTP and sockets",
    "FastAPI: a route with nothing to do",
    "middleware: request id, log line, limits; the other routes",
    "resource route: query, `ETag`, `Cache-Control`",
    "who may call: the token",
    PARAMETERS,
    "session: slot, made, handed over, closed",
    "connection: out of the pool and back",
    "statement: executed (Core, psycopg, the wire); built, of a list",
    "rows to an object, with the ORM's statement; to dicts, with `Link`",
    "validation and serialization",
]
RUNGS = range(len(LAYERS))
WARM = 30
CALLS = 100


class Counted:
    """A process of a candidate whose instructions are counted. It runs a module in place of its command."""

    def __init__(self, candidate: Candidate, url: URL, folder: Path, *module: str) -> None:
        self.port = free_port()
        self.folder = folder
        self.dumps = 0
        environment = {"PORT": str(self.port), "PYTHONHASHSEED": "0"}
        valgrind = ["valgrind", "--tool=callgrind", f"--callgrind-out-file={folder}/count"]
        command = [word.format(port=self.port) for word in module]
        self.process = subprocess.Popen(
            [*valgrind, candidate.environment / "bin/python", "-m", *command],
            cwd=candidate.folder,
            env=candidate.variables_for(url) | environment,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        headers = {"authorization": f"Bearer {TOKEN}", "accept-encoding": "identity"}
        address = f"http://127.0.0.1:{self.port}"
        self.client = httpx.Client(base_url=address, headers=headers, timeout=120)

    def __enter__(self) -> Self:
        deadline = time.monotonic() + 300
        while True:
            try:
                self.client.get("/users/0")
            except httpx.TransportError:
                if time.monotonic() > deadline or self.process.poll() is not None:
                    self.process.kill()
                    raise
                time.sleep(0.5)
            else:
                return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> None:
        self.process.send_signal(signal.SIGTERM)
        self.process.wait(60)

    def control(self, option: str) -> None:
        command = ["callgrind_control", option, str(self.process.pid)]
        subprocess.run(command, capture_output=True, check=True, timeout=60)

    def count(self, method: str, path: str, body: Callable[[], Any] = lambda: None) -> float:
        """Instructions of one call: the mean of CALLS. `body()` returns the JSON to send."""
        for _ in range(WARM):
            self.client.request(method, path, json=body()).raise_for_status()
        self.control("--zero")
        for _ in range(CALLS):
            self.client.request(method, path, json=body()).raise_for_status()
        self.control("--dump")
        self.dumps += 1
        dump = self.folder / f"count.{self.dumps}"
        deadline = time.monotonic() + 60
        while True:
            if dump.exists() and (
                found := re.search(r"^totals: (\d+)$", dump.read_text(), re.MULTILINE)
            ):
                return int(found[1]) / CALLS
            if time.monotonic() > deadline:
                raise RuntimeError(f"callgrind wrote no {dump.name}")
            time.sleep(0.1)


def path_of(rung: int, path: str) -> str:
    """The rungs below the parameters refuse a query."""
    return path if LAYERS.index(PARAMETERS) <= rung else path.partition("?")[0]


def describe(url: URL) -> str:
    with (
        TemporaryDirectory() as folder,
        Counted(OURS, url, Path(folder), "lab.bench.rungs") as counted,
    ):
        counts = [
            [counted.count("GET", f"/{side}-{rung}{path_of(rung, path)}") for rung in RUNGS]
            for side, path in enumerate(LADDERS.values())
        ]
        snapshot = counted.count("GET", "/snapshot/users/77")
    with TemporaryDirectory() as folder, Counted(OURS, url, Path(folder), "nutshell") as counted:
        wholes = [counted.count("GET", path) for path in LADDERS.values()]
    rows = []
    for rung, layer in enumerate(LAYERS):
        added = [count[rung] - (count[rung - 1] if rung else 0) for count in counts]
        cells = [f"{a:,.0f} ({a / c[-1]:.1%})" for a, c in zip(added, counts, strict=True)]
        rows.append([layer, *cells])
    rows.append(["**all layers**", *(f"**{count[-1]:,.0f}**" for count in counts)])
    rows.append(["the service itself, in a run of its own", *(f"{w:,.0f}" for w in wholes)])
    off = max(abs(c[-1] / w - 1) for c, w in zip(counts, wholes, strict=True))
    return table(["layer", *LADDERS], rows) + (
        f"\nThe layers add up to within {off:.1%}. From a snapshot, GET one takes {snapshot:,.0f},"
        f" {snapshot / counts[0][-1]:.2f} times as much: BEGIN and ROLLBACK are a round trip each.\n"
    )


def count_operations(candidate: Candidate, url: URL) -> list[float]:
    """Instructions of one request, for each of OPERATIONS."""
    numbers = itertools.count()

    def user() -> dict[str, str]:
        return {"email": f"c{next(numbers)}@example.com", "name": "Ada Lovelace", "bio": "Number 1"}

    def change() -> dict[str, str]:
        return {"name": f"Ada {next(numbers)}"}

    module = ["nutshell"] if candidate is OURS else candidate.command
    with TemporaryDirectory() as folder, Counted(candidate, url, Path(folder), *module) as counted:
        return [
            counted.count("GET", "/users/77"),
            counted.count("GET", "/users?limit=50"),
            counted.count("POST", "/users", user),
            counted.count("PATCH", "/users/78", change),
        ]


def compare(server: Postgres) -> str:
    candidates = [OURS, *ON_SQLALCHEMY]
    urls = []
    for candidate in candidates:
        candidate.install()
        server.execute(f"CREATE DATABASE {candidate.name} TEMPLATE filled")
        urls.append(server.url(candidate.name))
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        counts = list(pool.map(count_operations, candidates, urls))
    rows = [
        [c.title, *(f"{n:,.0f} ({n / our:.2f})" for n, our in zip(count, counts[0], strict=True))]
        for c, count in zip(candidates, counts, strict=True)
    ]
    return table(["", *OPERATIONS], rows)


def main() -> None:
    if shutil.which("valgrind") is None:
        sys.exit("Install valgrind.")
    OURS.install()
    server = Postgres(log_statement="none")
    try:
        url = server.create_database("filled")
        OURS.run("alembic", "upgrade", "head", url=url)
        server.execute(FILL, "filled")
        server.execute("ALTER TABLE users ALTER created_at SET DEFAULT now()", "filled")
        peers = compare(server)
        text = describe(url)
    finally:
        server.close()
    write(
        "A request taken apart",
        f"{datetime.now(UTC):%Y-%m-%d}, {versions()}. Instructions of the service's process for one request"
        f" over HTTP, on PostgreSQL: the mean of {CALLS}.\n\n" + text,
    )
    write(
        "Beside its peers, in instructions",
        "Counted in the same way, for the peers on SQLAlchemy; in brackets as a multiple of Nutshell's."
        " The kernel's part is not counted.\n\n" + peers,
    )


if __name__ == "__main__":
    main()
