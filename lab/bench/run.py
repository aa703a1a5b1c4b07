"""The service beside its alternatives: same database, same table, same load.

`make bench` runs it, in less than ten minutes. Every figure is the median of interleaved rounds:
requests per second, µs of CPU time per request in all processes of the server, ms at the 99th
percentile.
"""

import json
import subprocess
import sys
import time
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from typing import Any

from lab.bench.candidates import BARE, CANDIDATES, OURS, PYTHON_PEERS, TUTORIAL, Candidate, Running
from lab.bench.chart import draw
from lab.bench.report import table, versions, write
from nutshell.tests.postgres import Postgres

OPERATIONS = ["GET one", "list of 50", "POST", "PATCH"]
ROWS = 10_000
ROUNDS = 5
SECONDS = 3
CONNECTIONS = 16
FILL = f"""
INSERT INTO users (email, name, bio, created_at)
    SELECT 'user' || n || '@example.com', 'User ' || n, 'The bio of user ' || n, now()
    FROM generate_series(1, {ROWS}) n
"""


@dataclass
class Figure:
    rate: float  # requests per second
    cpu: float  # µs per request
    p99: float  # ms
    refused: int  # answers that were not 2xx, and broken connections

    def __str__(self) -> str:
        return f"{self.rate:,.0f} · {self.cpu:,.0f} · {self.p99:.0f}"


def load(
    running: Running, operation: str, prefix: str, *, seconds: int, connections: int = CONNECTIONS
) -> Figure:
    script = str(Path(__file__).with_name("load.lua"))
    wrk = ["wrk", "--threads", "1", "--connections", str(connections)]
    wrk += ["--duration", f"{seconds}s", "--timeout", "10s", "--script", script, running.url]
    before = running.cpu()
    done = subprocess.run(
        [*wrk, "--", operation, str(ROWS), prefix],
        capture_output=True,
        text=True,
        timeout=seconds + 60,
        check=True,
    )
    spent = running.cpu() - before
    seen = json.loads(done.stdout.splitlines()[-1])
    return Figure(
        rate=seen["requests"] / seen["duration"] * 1e6,
        cpu=spent / seen["requests"] * 1e6,
        p99=seen["p99"] / 1000,
        refused=seen["refused"] + seen["broken"],
    )


def check(running: Running, candidate: Candidate, server: Postgres) -> None:
    """Every operation answers the same, and stores the same."""

    def stored(user_id: int) -> dict[str, Any]:
        columns = ("id", "email", "name", "bio", "created_at")
        query = f"SELECT {', '.join(columns)} FROM users WHERE id = {user_id}"
        rows = server.execute(query, candidate.name)
        return dict(zip(columns, rows[0], strict=True))

    def read(answer: dict[str, Any]) -> dict[str, Any]:
        moment = datetime.fromisoformat(answer["created_at"])
        assert moment.tzinfo is not None
        # JavaScript knows milliseconds.
        return answer | {"created_at": moment.replace(microsecond=moment.microsecond // 1000)}

    def same(answer: dict[str, Any], user_id: int) -> bool:
        row = stored(user_id)
        moment = row["created_at"]
        return read(answer) == row | {
            "created_at": moment.replace(microsecond=moment.microsecond // 1000)
        }

    with running.client() as client:
        response = client.get("/users/77")
        assert response.status_code == 200, response.text
        assert same(response.json(), 77), response.text
        response = client.get("/users", params={"limit": 50, "offset": 7})
        assert [user["id"] for user in response.json()] == list(range(8, 58)), response.text
        assert all(same(user, user["id"]) for user in response.json()[::7])
        user = {"email": "ada@example.com", "name": "Ada", "bio": "x"}
        response = client.post("/users", json=user)
        assert response.status_code == 201, response.text
        assert user.items() <= response.json().items()
        assert same(response.json(), response.json()["id"])
        response = client.patch("/users/77", json={"name": "Changed"})
        assert response.status_code == 200, response.text
        assert response.json()["name"] == stored(77)["name"] == "Changed"
        assert same(response.json(), 77)
        assert client.get("/users/999999").status_code == 404
        if candidate is not BARE:
            assert client.post("/users", json=user).status_code == 409
            assert client.post("/users", json=user | {"email": "x"}).status_code in (400, 422)


def tidy(server: Postgres, name: str) -> None:
    server.execute(f"DELETE FROM users WHERE id > {ROWS}", name)
    server.execute("VACUUM ANALYZE users", name)


def say(*words: object) -> None:
    print(f"{time.monotonic() - began:5.0f} s ", *words, flush=True)


def install(candidates: list[Candidate]) -> list[Candidate]:
    able = []
    for candidate in candidates:
        try:
            candidate.install()
        except RuntimeError as reason:
            if candidate is OURS:
                raise
            say(f"without {candidate.title}: {reason}")
        else:
            able.append(candidate)
            say(f"installed {candidate.title}")
    return able


Figures = dict[str, dict[str, list[Figure]]]


def compare(candidates: list[Candidate], server: Postgres, seconds: int) -> Figures:
    """Figures by candidate's name and operation, one for each round."""
    OURS.run("alembic", "upgrade", "head", url=server.create_database("filled"))
    server.execute(FILL, "filled")
    server.execute("ALTER TABLE users ALTER created_at SET DEFAULT now()", "filled")
    figures: Figures = {c.name: {operation: [] for operation in OPERATIONS} for c in candidates}
    with ExitStack() as stack:
        running: dict[str, Running] = {}
        for candidate in candidates:
            server.execute(f"CREATE DATABASE {candidate.name} TEMPLATE filled")
            started = candidate.start(server.url(candidate.name))
            running[candidate.name] = stack.enter_context(started)
            check(started, candidate, server)
            for operation in OPERATIONS:
                load(started, operation, "warm", seconds=1)
            tidy(server, candidate.name)
            say(f"{candidate.title} answers and stores as it should")
        for turn in range(ROUNDS):
            for operation in OPERATIONS:
                for candidate in candidates:
                    prefix = f"{operation[0].lower()}{turn}"
                    figure = load(running[candidate.name], operation, prefix, seconds=seconds)
                    figures[candidate.name][operation].append(figure)
                    if operation in ("POST", "PATCH"):
                        tidy(server, candidate.name)
                    say(f"round {turn + 1}, {operation}, {candidate.title}: {figure}")
    return figures


def middle(figures: list[Figure]) -> Figure:
    return Figure(
        rate=median(figure.rate for figure in figures),
        cpu=median(figure.cpu for figure in figures),
        p99=median(figure.p99 for figure in figures),
        refused=sum(figure.refused for figure in figures),
    )


def describe(candidates: list[Candidate], figures: Figures) -> str:
    medians = {c.name: {o: middle(figures[c.name][o]) for o in OPERATIONS} for c in candidates}
    rows = [[c.title, *(str(medians[c.name][o]) for o in OPERATIONS)] for c in candidates]
    text = "Requests per second · CPU µs per request in the server · p99 in ms.\n\n"
    text += table(["", *OPERATIONS], rows)

    def ratios(other: str) -> list[str]:
        """The other's CPU time per request over ours: the median over the rounds."""
        return [
            f"{median(theirs.cpu / ours.cpu for theirs, ours in pairs):.2f}"
            for pairs in (
                zip(figures[other][o], figures[OURS.name][o], strict=True) for o in OPERATIONS
            )
        ]

    text += "\nCPU time per request as a multiple of Nutshell's, paired by round:\n\n"
    others = [c for c in candidates if c is not OURS]
    text += table(["", *OPERATIONS], [[c.title, *ratios(c.name)] for c in others])
    python = [c for c in PYTHON_PEERS if c in candidates]
    best = [min(float(ratios(c.name)[i]) for c in python) for i in range(len(OPERATIONS))]
    goals = [["1.5 times the best Python peer", *(verdict(ratio, 1.5) for ratio in best)]]
    if TUTORIAL in candidates:
        tutorial = [verdict(float(ratio), 2) for ratio in ratios(TUTORIAL.name)]
        goals.append(["2 times the tutorial", *tutorial])
    text += "\n" + table(["goal", *OPERATIONS], goals)
    refused = sum(medians[c.name][o].refused for c in candidates for o in OPERATIONS)
    text += f"\nAnswers other than 2xx, and broken connections: {refused}.\n"
    colours = {c.title: [medians[c.name][o].cpu for o in OPERATIONS] for c in candidates}
    draw(OPERATIONS, colours)
    return text


def verdict(ratio: float, goal: float) -> str:
    return f"{ratio:.2f} " + ("reached" if ratio >= goal else "missed")


def main() -> None:
    names = sys.argv[1:]
    candidates = install([c for c in CANDIDATES if not names or c is OURS or c.name in names])
    server = Postgres(log_statement="none", max_connections=200, autovacuum="off")
    try:
        figures = compare(candidates, server, SECONDS)
    finally:
        server.close()
    write(
        "Beside its peers",
        f"{datetime.now(UTC):%Y-%m-%d}, {versions()}, one server process each, pool of 10,"
        f" {CONNECTIONS} connections, {ROWS:,} users, medians of {ROUNDS} interleaved rounds of"
        f" {SECONDS} s. The peers write no access log; Nutshell writes its own and checks a token."
        "\n\n" + describe(candidates, figures),
    )


if __name__ == "__main__":
    began = time.monotonic()
    main()
