"""More workers, more connections, and SQLite with readers beside a writer. `make scale` runs it."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from tempfile import TemporaryDirectory

import psutil
from sqlalchemy import URL, create_engine, make_url, text

from lab.bench.candidates import OURS, cpu
from lab.bench.load import ROWS, Figure, load
from lab.bench.report import table, versions, write
from lab.bench.run import FILL
from nutshell.tests.postgres import Postgres

SECONDS = 4
WORKERS = [1, 2, 4]
CONNECTIONS = [1, 16, 64, 256]
OPERATIONS = ["GET one", "POST"]
FILL_SQLITE = f"""
WITH RECURSIVE numbers(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM numbers WHERE n < {ROWS})
INSERT INTO users (email, name, bio, created_at)
    SELECT 'user' || n || '@example.com', 'User ' || n, 'The bio', '2030-01-01 00:00:00'
    FROM numbers
"""


def cell(figure: Figure) -> str:
    return f"{figure.rate:,.0f} · {figure.p99:.0f} · {figure.refused}"


@contextmanager
def filled_server() -> Iterator[tuple[Postgres, URL]]:
    server = Postgres(log_statement="none")
    try:
        url = server.create_database("filled")
        OURS.run("alembic", "upgrade", "head", url=url)
        server.execute(FILL, "filled")
        yield server, url
    finally:
        server.close()


def on_postgresql() -> str:
    rows = []
    with filled_server() as (_, url):
        for workers in WORKERS:
            with OURS.start(url, WEB_CONCURRENCY=workers) as running:
                for operation in OPERATIONS:
                    load(running, operation, f"warm{workers}", seconds=1)
                    row = [f"{operation}, {workers} worker{'s' * (workers > 1)}"]
                    for number in CONNECTIONS:
                        prefix = f"w{workers}c{number}"
                        figure = load(
                            running, operation, prefix, seconds=SECONDS, connections=number
                        )
                        row.append(cell(figure))
                        print(row[0], f"{number} connections", row[-1], flush=True)
                    rows.append(row)
    return table(["connections", *map(str, CONNECTIONS)], rows)


def on_each_side() -> str:
    """What a request costs the service, and what it costs the database."""
    rows = []
    with filled_server() as (server, url), OURS.start(url) as running:
        database = psutil.Process(server.process.pid)
        for operation in ("GET one", "list of 50", "POST", "PATCH"):
            load(running, operation, f"warm{operation[:2]}", seconds=1)
            before = cpu(database)
            figure = load(running, operation, f"side{operation[:2]}", seconds=SECONDS)
            theirs = (cpu(database) - before) / (figure.rate * SECONDS) * 1e6
            rows.append(
                [operation, *(f"{each:,.0f}" for each in (figure.rate, figure.cpu, theirs))]
            )
    head = ["one worker, 16 connections", "requests per second", "service, µs", "database, µs"]
    return table(head, rows)


def on_sqlite() -> str:
    """16 readers, first alone and then beside one writer."""
    with TemporaryDirectory() as folder:
        url = make_url(f"sqlite:///{folder}/bench.db")
        OURS.run("alembic", "upgrade", "head", url=url)
        engine = create_engine(url)
        with engine.begin() as connection:
            connection.execute(text(FILL_SQLITE))
        engine.dispose()
        with OURS.start(url) as running:
            load(running, "GET one", "warm", seconds=1, connections=16)
            alone = load(running, "GET one", "alone", seconds=SECONDS, connections=16)
            writes: list[Figure] = []

            def write_on() -> None:
                writes.append(load(running, "POST", "beside", seconds=SECONDS, connections=1))

            writer = threading.Thread(target=write_on)
            writer.start()
            beside = load(running, "GET one", "beside", seconds=SECONDS, connections=16)
            writer.join()
    rows = [
        ["16 readers alone", cell(alone)],
        ["16 readers beside a writer", cell(beside)],
        ["the writer", cell(writes[0])],
    ]
    return table(["SQLite", "one worker"], rows)


def main() -> None:
    OURS.install()
    write(
        "More workers, more connections",
        f"{datetime.now(UTC):%Y-%m-%d}, {versions()}; the load and the database share the cores."
        " Requests per second · p99 in ms · answers other than 2xx and broken connections.\n\n"
        + on_postgresql()
        + "\n"
        + on_each_side()
        + "\n"
        + on_sqlite(),
    )


if __name__ == "__main__":
    main()
