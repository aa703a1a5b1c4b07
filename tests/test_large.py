"""A million rows in each table cost what a page costs: `make soak`, with figures."""

import time
from collections.abc import AsyncIterator, Iterator
from statistics import median
from typing import Any

import httpx
import pytest
from sqlalchemy import event

import main
from nutshell.tests.fixtures import Pools, use_pools
from nutshell import database
from nutshell.tests.postgres import Postgres
from nutshell.tests.service import checkout, migrate

pytestmark = pytest.mark.soak

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
    SELECT 'Item ' || n % 10000, nullif(1 + n % 10000, 10000), now() FROM generate_series(1, {ROWS}) n;
"""


@pytest.fixture
def large(postgres: Postgres) -> Iterator[Postgres]:
    url = postgres.create_database("large")
    migrate(url, checkout())
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
    "/items?owner_id_is_null=true",
    "/items?owner_id_is_null=false",
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
