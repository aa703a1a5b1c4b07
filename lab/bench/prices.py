"""What the other operations cost: sorted pages far down a list, snapshots, searches, batches."""

import time
from statistics import median

import psutil

from lab.bench.candidates import OURS, Running, cpu, pin
from lab.bench.load import PINNED, Figure, load
from lab.bench.report import table
from nutshell.tests.postgres import Postgres

ROWS = 1_000_000
DEEP = 900_000
FILL = f"""
INSERT INTO users (email, name, created_at)
    SELECT n || '@example.com', 'Name ' || n, now() FROM generate_series(1, 10000) n;
INSERT INTO todos (title, done, due_at, owner_id, created_at)
    SELECT md5(n::text), n % 100 <> 0,
        CASE WHEN n % 20 <> 0 THEN now() + n::bigint * 7919 % {ROWS} * interval '1 minute' END,
        1 + n % 10000, now()
    FROM generate_series(1, {ROWS}) n;
"""
SECONDS = 2
ROUNDS = 3


def describe_prices(server: Postgres) -> str:
    url = server.create_database("large")
    OURS.run("alembic", "upgrade", "head", url=url)
    for statement in filter(str.strip, FILL.split(";")):
        server.execute(statement, "large")
    server.execute("VACUUM ANALYZE", "large")
    database = psutil.Process(server.process.pid)
    pin(database, PINNED.others)
    with OURS.start(url) as running:
        pin(running.process, PINNED.server)
        deep = find_page(running, f"/todos?sort=due_at&offset={DEEP}&limit=50")
        operations = {
            "one todo": "/todos/77",
            "50 todos": "/todos?limit=50",
            "50 todos of one user": "/todos?limit=50&owner_id=77",
            "50 todos of one user, with `Prefer: count=exact`, from a snapshot": "count /todos?limit=50&owner_id=77",
            "50 todos by `due_at`": "/todos?sort=due_at&limit=50",
            f"the same at row {DEEP:,}, by `cursor`": deep,
            "50 todos that contain `abc`: one in 140 does": "/todos?q=abc&limit=50",
            "a batch of 100 items": "batch",
        }
        seen: dict[str, list[tuple[Figure, float]]] = {title: [] for title in operations}
        for turn in range(-1, ROUNDS):
            for title, operation in operations.items():
                before = cpu(database)
                figure = load(running, operation, str(turn), seconds=SECONDS, cores=PINNED.others)
                assert figure.refused == 0, (title, figure)
                theirs = (cpu(database) - before) / (figure.rate * SECONDS) * 1e6
                if turn >= 0:  # the first round only warms up
                    seen[title].append((figure, theirs))
                print(title, figure, flush=True)
        with running.client() as client:
            began = time.monotonic()
            assert client.get("/todos", params={"q": "no title has this"}).json() == []
            search = time.monotonic() - began
    rows = [
        [
            title,
            f"{median(figure.rate for figure, _ in each):,.0f}",
            f"{median(figure.cpu for figure, _ in each):,.0f}",
            f"{median(theirs for _, theirs in each):,.0f}",
        ]
        for title, each in seen.items()
    ]
    head = ["", "requests per second", "CPU of the service, µs", "of the database, µs"]
    return (
        f"{ROWS:,} todos of 10,000 users; one todo in 20 has no `due_at`. The service has a core, the"
        f" load and the database the other. Medians of {ROUNDS} rounds of {SECONDS} s.\n\n"
        + table(head, rows)
        + f"\nA search that no title matches reads all {ROWS:,}: {search:.2f} s. For"
        " large tables, PostgreSQL's pg_trgm has an index for this.\n"
    )


def find_page(running: Running, path: str) -> str:
    """Returns the path of the page that follows this one, from its `Link`."""
    with running.client() as client:
        link = client.get(path).headers["link"]
    return link.partition("<")[2].partition(">")[0]
