"""The service beside its alternatives: same database, same table, same load.

`make bench` runs it, in 25 minutes. Every figure is the median of interleaved rounds. First each server
has a core to itself, and the load and the database share the other: then CPU time per request is that of
the server alone, because nobody else evicts its caches. Then all share all cores, as on a small machine.
"""

import math
import os
import sys
import time
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import UTC, datetime
from statistics import median
from typing import Any

import psutil

from lab.bench.candidates import (
    BARE,
    CANDIDATES,
    DRF,
    DUTIES,
    NINJA_ATOMIC,
    ON_SQLALCHEMY,
    OURS,
    PYTHON_PEERS,
    TUTORIAL,
    Candidate,
    Running,
    pin,
)
from lab.bench.chart import draw
from lab.bench.load import CROWDED, PINNED, ROWS, SETTINGS, SHARED, Figure, Setting, load
from lab.bench.prices import describe_prices
from lab.bench.report import table, versions, write
from nutshell.tests.postgres import Postgres

OPERATIONS = ["GET one", "list of 50", "POST", "PATCH"]
ROUNDS = 5
SECONDS = 2
FILL = f"""
INSERT INTO users (email, name, bio, created_at)
    SELECT 'user' || n || '@example.com', 'User ' || n, 'The bio of user ' || n, now()
    FROM generate_series(1, {ROWS}) n
"""


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
            taken = 400 if candidate is DRF else 409
            assert client.post("/users", json=user).status_code == taken
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


Figures = dict[
    str, dict[str, list[Figure]]
]  # by candidate's name and operation, one for each round


@dataclass
class Footprint:
    start: float  # seconds from the start of one process to its first answer
    one: float  # MB, idle
    two: float  # MB, with two worker processes


def compare(
    candidates: list[Candidate], server: Postgres, settings: list[Setting]
) -> tuple[dict[Setting, Figures], dict[str, Footprint]]:
    OURS.run("alembic", "upgrade", "head", url=server.create_database("filled"))
    server.execute(FILL, "filled")
    server.execute("ALTER TABLE users ALTER created_at SET DEFAULT now()", "filled")
    database = psutil.Process(server.process.pid)
    footprints = {}
    figures: dict[Setting, Figures] = {
        setting: {c.name: {operation: [] for operation in OPERATIONS} for c in candidates}
        for setting in settings
    }
    with ExitStack() as stack:
        running: dict[str, Running] = {}
        for candidate in candidates:
            server.execute(f"CREATE DATABASE {candidate.name} TEMPLATE filled")
            url = server.url(candidate.name)
            footprints[candidate.name] = measure_footprint(candidate, server)
            started = running[candidate.name] = stack.enter_context(candidate.start(url))
            check(started, candidate, server)
            for operation in OPERATIONS:
                load(started, operation, "warm", seconds=1)
            tidy(server, candidate.name)
            say(f"{candidate.title} answers and stores as it should")
        every = range(os.cpu_count() or 1)
        for setting in settings:
            say(setting.title)
            pin(database, setting.others or every)
            for each in running.values():
                pin(each.process, setting.server or every)
            for turn in range(ROUNDS):
                for operation in OPERATIONS:
                    for candidate in candidates:
                        figure = load(
                            running[candidate.name],
                            operation,
                            f"{SETTINGS.index(setting)}{operation[0].lower()}{turn}",
                            seconds=SECONDS,
                            connections=setting.connections,
                            cores=setting.others,
                        )
                        figures[setting][candidate.name][operation].append(figure)
                        if operation in ("POST", "PATCH"):
                            tidy(server, candidate.name)
                        say(f"round {turn + 1}, {operation}, {candidate.title}: {figure}")
    return figures, footprints


def measure_footprint(candidate: Candidate, server: Postgres) -> Footprint:
    url = server.url(candidate.name)
    starts, memory = [], {}
    for workers in (1, 1, 1, 2):
        # The same variable for uvicorn, gunicorn and Nutshell.
        with candidate.start(url, WEB_CONCURRENCY=workers) as running:
            time.sleep(1)  # for the second worker
            memory[workers] = running.memory()
            if workers == 1:
                starts.append(running.start)
    return Footprint(median(starts), memory[1], memory[2])


def middle(figures: list[Figure]) -> Figure:
    return Figure(
        rate=median(figure.rate for figure in figures),
        cpu=median(figure.cpu for figure in figures),
        p99=median(figure.p99 for figure in figures),
        refused=sum(figure.refused for figure in figures),
    )


class Report:
    def __init__(self, candidates: list[Candidate], figures: dict[Setting, Figures]) -> None:
        self.candidates = candidates
        self.figures = figures
        self.peers = [c for c in PYTHON_PEERS if c in candidates]

    def medians(self, setting: Setting, candidate: Candidate) -> list[Figure]:
        return [middle(self.figures[setting][candidate.name][o]) for o in OPERATIONS]

    def ratios(self, setting: Setting, candidate: Candidate) -> list[float]:
        """The candidate's CPU time per request over ours: the median over the rounds."""
        theirs, ours = (self.figures[setting][c.name] for c in (candidate, OURS))
        return [
            median(their.cpu / our.cpu for their, our in zip(theirs[o], ours[o], strict=True))
            for o in OPERATIONS
        ]

    def describe(self) -> str:
        text = "What each does for a request besides the operation itself:\n\n" + table(
            ["", *DUTIES],
            [[c.title, *(c.duties.get(duty, "") for duty in DUTIES)] for c in self.candidates],
        )
        for setting in self.figures:
            rows = [
                [c.title, *(str(figure) for figure in self.medians(setting, c))]
                for c in self.candidates
            ]
            text += f"\n### {setting.title[0].upper()}{setting.title[1:]}\n\n"
            text += "Requests per second · CPU µs per request in the server · p99 in ms.\n\n"
            text += table(["", *OPERATIONS], rows)
            others = [c for c in self.candidates if c is not OURS]
            rows = [[c.title, *map(show_ratio, self.ratios(setting, c))] for c in others]
            text += "\nCPU time per request as a multiple of Nutshell's, paired by round:\n\n"
            text += table(["", *OPERATIONS], rows)
        refused = sum(
            figure.refused
            for setting in self.figures
            for c in self.candidates
            for figure in self.medians(setting, c)
        )
        text += f"\nAnswers other than 2xx, and broken connections: {refused}.\n"
        text += (
            "\nWhy a service gives no answer:"
            " [docs/performance.md](../../docs/performance.md#what-is-unequal).\n"
        )
        if PINNED in self.figures:
            text += "\n### Goals\n\n" + self.describe_goals()
            draw(
                OPERATIONS,
                {c.title: [f.cpu for f in self.medians(PINNED, c)] for c in self.candidates},
            )
        return text

    def spread(self) -> float:
        """The CPU time of our slowest round over that of the fastest: what the machine adds."""
        ours = [
            rounds for figures in self.figures.values() for rounds in figures[OURS.name].values()
        ]
        return max(max(f.cpu for f in each) / min(f.cpu for f in each) for each in ours)

    def describe_goals(self) -> str:
        goals = [
            ([c for c in self.peers if c in ON_SQLALCHEMY], (1.0, 1.3, 1.0, 1.0)),
            ([c for c in self.peers if c is NINJA_ATOMIC], (1.1, 1.8, 0.8, 0.95)),
            ([c for c in self.peers if c is TUTORIAL], (2.0, 2.0, 2.0, 2.0)),
        ]
        rows = [
            [c.title, *map(verdict, self.ratios(PINNED, c), goal)]
            for peers, goal in goals
            for c in peers
        ]
        text = "Ratios with the server on a core of its own:\n\n" + table(["", *OPERATIONS], rows)
        rows = []
        for setting in (SHARED, CROWDED):
            if setting in self.figures and self.peers:
                cells = []
                for number in range(len(OPERATIONS)):
                    ours = self.medians(setting, OURS)[number].p99
                    best = min(self.peers, key=lambda c: self.medians(setting, c)[number].p99)
                    theirs = self.medians(setting, best)[number].p99
                    word = "reached" if ours <= theirs else "missed"
                    cells.append(f"{ours:.0f}, {theirs:.0f} {word} ({best.name})")
                rows.append([setting.title, *cells])
        text += "\nThe p99 of Nutshell and the lowest of its Python peers, in ms:\n\n"
        return text + table(["", *OPERATIONS], rows)

    def describe_footprints(self, footprints: dict[str, Footprint]) -> str:
        rows = []
        for c in self.candidates:
            each = footprints[c.name]
            # Only these know WEB_CONCURRENCY.
            two = f"{each.two:.0f}" if each.two > each.one * 1.2 else ""
            rows.append([c.title, f"{each.start:.2f}", f"{each.one:.0f}", two])
        return table(["", "start, s", "an idle worker, MB", "two workers, MB"], rows)


def show_ratio(ratio: float) -> str:
    return f"{ratio:.2f}" if math.isfinite(ratio) else "no answer"


def verdict(ratio: float, goal: float) -> str:
    return f"{ratio:.2f} of {goal} " + ("reached" if round(ratio, 2) >= goal else "missed")


def main() -> None:
    names = sys.argv[1:]
    candidates = install([c for c in CANDIDATES if not names or c is OURS or c.name in names])
    server = Postgres(log_statement="none", max_connections=300, autovacuum="off")
    try:
        figures, footprints = compare(candidates, server, SETTINGS)
        prices = describe_prices(server)
    finally:
        server.close()
    report = Report(candidates, figures)
    write(
        "Beside its peers",
        f"{datetime.now(UTC):%Y-%m-%d}, {versions()}, one server process each, pool of 10,"
        f" {ROWS:,} users, medians of {ROUNDS} interleaved rounds of {SECONDS} s. From round to"
        f" round, Nutshell itself took up to {report.spread():.2f} times the CPU time: smaller"
        " differences mean little.\n\n" + report.describe(),
    )
    write(
        "Start and memory",
        "In the same run: medians of three starts until the first answer, and the memory of all"
        " processes (PSS, what they share counts once).\n\n"
        + report.describe_footprints(footprints),
    )
    write("What else costs", "In the same run, Nutshell alone. " + prices)


if __name__ == "__main__":
    began = time.monotonic()
    main()
