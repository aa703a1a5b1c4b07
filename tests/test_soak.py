"""Ten minutes at saturation, and a million rows: `make soak`, with figures."""

import os
import random
import socket
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from statistics import median
from typing import Any

import httpx
import pytest
from sqlalchemy import event

import main
from nutshell.tests.fixtures import Pools, use_pools
from nutshell import database
from nutshell.tests.postgres import Postgres
from nutshell.tests.service import (
    TOKEN,
    Service,
    Variables,
    migrate,
    resident_megabytes,
    workers,
)

pytestmark = pytest.mark.soak

SECONDS = int(os.environ.get("SOAK_SECONDS", "600"))
SEED = 20300131
CLIENTS = 16
HINDRANCES = 8


def test_load_of_all_verbs(postgres: Postgres) -> None:
    url = postgres.create_database("soak")
    migrate(url)
    variables: Variables = {"DATABASE_URL": url, "API_TOKEN": TOKEN, "WEB_CONCURRENCY": 2}
    statuses: Counter[int] = Counter()
    stop = time.monotonic() + SECONDS

    def mix(number: int) -> None:
        chance = random.Random(SEED + number)
        with service.client() as client:
            turn = 0
            while time.monotonic() < stop:
                turn += 1
                user = {"email": f"{number}.{turn}@example.com", "name": "Ada"}
                created = client.post("/users", json=user)
                path = f"/users/{created.json()['id']}"
                calls: list[Callable[[], httpx.Response]] = [
                    lambda: client.get(path),  # noqa: B023
                    lambda: client.get("/users?limit=20&order=desc"),
                    lambda: client.patch(path, json={"name": "Ada King"}),  # noqa: B023
                    lambda: client.post(f"{path}/posts", json={"title": "a", "body": "b"}),  # noqa: B023
                    lambda: client.get("/posts?limit=20&order=desc"),
                    lambda: client.post("/items/batch", json=[{"name": "a"}] * 5),
                    lambda: client.get("/todos?done=false&limit=5"),
                    lambda: client.post("/users", json=user),  # noqa: B023
                    lambda: client.post("/items", json={"name": ""}),
                ]
                chance.shuffle(calls)
                responses = [created, *(call() for call in calls), client.delete(path)]
                statuses.update(response.status_code for response in responses)

    def hinder(number: int) -> None:
        """Silent, slow and broken-off requests, one of them after the other."""
        chance = random.Random(SEED - number)
        body = b'{"name": "hindered"}'
        head = (
            b"POST /items HTTP/1.1\r\nhost: 127.0.0.1\r\nauthorization: Bearer %s\r\n"
            b"content-type: application/json\r\ncontent-length: %d\r\n\r\n"
        ) % (TOKEN.encode(), len(body))
        whole = head + body
        while time.monotonic() < stop:
            with (
                suppress(OSError),
                socket.create_connection(("127.0.0.1", service.port), timeout=2) as connection,
            ):
                kind = chance.choice(["silent", "half", "slow", "gone"])
                if kind == "half":
                    connection.sendall(whole[: chance.randrange(1, len(whole))])
                elif kind == "slow":
                    for start in range(0, len(whole), 20):
                        connection.sendall(whole[start : start + 20])
                        time.sleep(0.02)
                elif kind == "gone":
                    connection.sendall(whole)
                    continue  # before the answer comes
                connection.recv(1000)

    with Service(variables) as service:
        sizes: list[float] = []
        with ThreadPoolExecutor(CLIENTS + HINDRANCES) as pool:
            clients = [pool.submit(mix, number) for number in range(CLIENTS)]
            clients += [pool.submit(hinder, number) for number in range(HINDRANCES)]
            began = time.monotonic()
            while not all(client.done() for client in clients):
                time.sleep(1)
                sizes.append(sum(resident_megabytes(pid) for pid in workers(service.process.pid)))
            for client in clients:
                client.result()
        took = time.monotonic() - began
        minute = min(60, len(sizes) // 3)
        first, last = median(sizes[minute : minute + 10]), median(sizes[-10:])
        print(f"{sum(statuses.values())} requests in {took:.0f} s: {dict(statuses)}")
        print(f"memory of both workers after a minute {first:.1f} MB, at the end {last:.1f} MB")
        assert statuses.keys() == {200, 201, 204, 409, 422}
        assert last < first * 1.1
        held = "SELECT state FROM pg_stat_activity WHERE datname = 'soak'"
        assert {state for (state,) in postgres.execute(held)} == {"idle"}
        assert " ERROR " not in service.log.read_text()


ROWS = 1_000_000
FILL = f"""
INSERT INTO users (email, name, created_at)
    SELECT n || '@example.com', 'Name ' || n, now() FROM generate_series(1, {ROWS}) n;
INSERT INTO posts (title, body, author_id, created_at)
    SELECT 'Title ' || n, 'Body', 1 + n % 10000, now() FROM generate_series(1, {ROWS}) n;
INSERT INTO todos (title, done, due_at, owner_id, created_at)
    SELECT md5(n::text), n % 100 <> 0, now() + n * interval '1 minute', 1 + n % 10000, now()
    FROM generate_series(1, {ROWS}) n;
INSERT INTO items (name, owner_id, created_at)
    SELECT 'Item ' || n % 10000, 1 + n % 10000, now() FROM generate_series(1, {ROWS}) n;
"""


@pytest.fixture
def large(postgres: Postgres) -> Iterator[Postgres]:
    url = postgres.create_database("large")
    migrate(url)
    for statement in filter(str.strip, FILL.split(";")):
        postgres.execute(statement, "large")
    postgres.execute("VACUUM ANALYZE", "large")
    yield postgres
    postgres.execute("DROP DATABASE large WITH (FORCE)")


@pytest.fixture
async def large_client(
    large: Postgres, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[httpx.AsyncClient]:
    pools = Pools(large.url("large"), 4)
    use_pools(pools, monkeypatch)
    transport = httpx.ASGITransport(main.app)
    async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1") as client:
        yield client
    await pools.dispose()


DEEP = ROWS - 1000
QUERIES = [
    "/users",
    f"/users?after={DEEP}",
    f"/users?order=desc&after={DEEP}",
    f"/users?email={DEEP}@example.com",
    f"/users/{DEEP}",
    "/users/500/posts",
    f"/users/500/posts?after={DEEP}",
    "/posts",
    f"/posts?after={DEEP}",
    "/posts?author_id=500",
    f"/posts/{DEEP}",
    "/todos",
    f"/todos?after={DEEP}",
    "/todos?owner_id=500",
    "/todos?done=false",
    f"/todos?done=false&after={DEEP}",
    "/todos?done=true",
    "/todos?due_before=2020-01-01T00:00:00Z",
    "/todos?due_after=2100-01-01T00:00:00Z",
    f"/todos/{DEEP}",
    "/items",
    f"/items?after={DEEP}",
    "/items?owner_id=500",
    "/items?name=Item%20500",
    f"/items/{DEEP}",
]


async def test_a_million_rows_cost_what_a_page_costs(large_client: httpx.AsyncClient) -> None:
    asked: list[tuple[str, Any]] = []

    def remember(_: Any, __: Any, statement: str, parameters: Any, *___: Any) -> None:
        if statement.startswith("SELECT"):
            asked.append((statement, parameters))

    event.listen(database.reader.engine.sync_engine, "before_cursor_execute", remember)
    for path in QUERIES:
        asked.clear()
        times = []
        for _ in range(5):
            began = time.perf_counter()
            response = await large_client.get(path)
            times.append((time.perf_counter() - began) * 1000)
            assert response.status_code == 200, response.text
        plans = []
        for statement, parameters in list(asked[:1]):
            async with database.reader.engine.connect() as connection:
                rows = await connection.exec_driver_sql(f"EXPLAIN {statement}", parameters)
                plans.append("\n".join(row[0] for row in rows))
        print(f"{median(times):6.1f} ms  {path}")
        for plan in plans:
            assert "Seq Scan" not in plan, plan
            assert "Index" in plan, plan
        assert median(times) < 100, path
