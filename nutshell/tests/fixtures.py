"""What the tests of both floors share. A conftest.py adds the app and its schema."""

import re
from collections.abc import AsyncIterator, Callable, Iterator
from functools import cache
from itertools import count
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi import FastAPI
from sqlalchemy import URL, Engine, create_engine, event, inspect, make_url
from sqlmodel import SQLModel
from sqlmodel.ext.asyncio.session import AsyncSession

from nutshell import database, health
from nutshell.engines import Pool, make_engine, make_pools
from nutshell.guards import TORN
from nutshell.health import Prober
from nutshell.settings import settings
from nutshell.tests.postgres import Postgres

MakeSchema = Callable[[URL], None]

COUNT = count(1)


@pytest.fixture(scope="session")
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(scope="session")
def postgres() -> Iterator[Postgres]:
    server = Postgres(fsync="off")
    yield server
    server.close()


@pytest.fixture(params=["sqlite", "postgresql"])
def empty_url(request: pytest.FixtureRequest, tmp_path: Path) -> URL:
    """A database with nothing in it, not even tables."""
    if request.param == "sqlite":
        return make_url(f"sqlite:///{tmp_path}/test.db")
    postgres: Postgres = request.getfixturevalue("postgres")
    return postgres.create_database(f"test_{next(COUNT)}")


@pytest.fixture(scope="session")
def databases() -> dict[tuple[MakeSchema, str], URL]:
    """Those that exist, by what has made their schema."""
    return {}


@pytest.fixture(params=["sqlite", "postgresql"])
def url(
    request: pytest.FixtureRequest,
    tmp_path_factory: pytest.TempPathFactory,
    make_schema: MakeSchema,
    databases: dict[tuple[MakeSchema, str], URL],
) -> URL:
    """The database of most tests, emptied after each."""
    key = make_schema, request.param
    if key not in databases:
        if request.param == "sqlite":
            url = make_url(f"sqlite:///{tmp_path_factory.mktemp('sqlite')}/test.db")
        else:
            postgres: Postgres = request.getfixturevalue("postgres")
            url = postgres.create_database(f"test_{next(COUNT)}")
        make_schema(url)
        databases[key] = url
    return databases[key]


@cache
def table_names(url: URL) -> frozenset[str]:
    engine = create_engine(url)
    names = inspect(engine).get_table_names()
    engine.dispose()
    return frozenset(names)


class Pools:
    """The service's two pools, and the connection of `/readyz`."""

    def __init__(self, url: URL, size: int) -> None:
        self.reader, self.writer = make_pools(url, size)
        self.prober = Prober(url)

    @property
    def both(self) -> tuple[Pool, Pool]:
        return self.reader, self.writer

    def checked_out(self) -> int:
        queues: list[Any] = [pool.engine.pool for pool in self.both]
        return sum(queue.checkedout() for queue in queues)

    async def dispose(self) -> None:
        for engine in (self.reader.engine, self.writer.engine, self.prober.engine):
            await engine.dispose()


def use_pools(pools: Pools, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(database, "reader", pools.reader)
    monkeypatch.setattr(database, "writer", pools.writer)
    monkeypatch.setattr(health, "prober", pools.prober)


@pytest.fixture(scope="session")
def emptiers() -> Iterator[dict[URL, Engine]]:
    """They keep their connection from test to test: a new one costs more than the deletes."""
    engines: dict[URL, Engine] = {}
    yield engines
    for engine in engines.values():
        engine.dispose()


@pytest.fixture
async def pools(
    url: URL, emptiers: dict[URL, Engine], monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Pools]:
    """The service's own two pools, pointed at the test's database."""
    pools = Pools(url, settings.pool_size)
    use_pools(pools, monkeypatch)
    yield pools
    await pools.dispose()
    if url not in emptiers:
        emptiers[url] = create_engine(url, pool_pre_ping=True)
    with emptiers[url].begin() as connection:
        for table in reversed(SQLModel.metadata.sorted_tables):
            if table.name in table_names(url):
                connection.execute(table.delete())


@pytest.fixture
async def session(url: URL, pools: Pools) -> AsyncIterator[AsyncSession]:
    """A session on a connection of the test's own: what it sees is committed."""
    engine = make_engine(url, 1, autocommit=True)
    async with AsyncSession(engine) as session:
        yield session
    await engine.dispose()


@pytest.fixture
def access_headers() -> dict[str, str]:
    """What the client sends with each call. A conftest.py may have others."""
    return {}


@pytest.fixture
async def client(
    wire: "Wire",
    app: FastAPI,
    access_headers: dict[str, str],
    caplog: pytest.LogCaptureFixture,
    request: pytest.FixtureRequest,
) -> AsyncIterator[httpx.AsyncClient]:
    """Calls the app. A GET of several statements without a snapshot fails the test."""
    transport = httpx.ASGITransport(app, raise_app_exceptions=False)
    url = "http://127.0.0.1"
    async with httpx.AsyncClient(
        transport=transport, base_url=url, headers=access_headers
    ) as client:
        yield client
    torn = [record.getMessage() for record in caplog.get_records("call") if record.msg == TORN]
    assert not torn or request.node.get_closest_marker("torn"), torn


@pytest.fixture
def extra(app: FastAPI) -> Iterator[FastAPI]:
    """Lets a test add routes of its own to the app, and takes them off again."""
    before = list(app.router.routes)
    app.openapi_schema = None  # it is made on demand
    yield app
    app.router.routes[:] = before
    app.openapi_schema = None


async def create(client: httpx.AsyncClient, path: str, /, **data: Any) -> dict[str, Any]:
    response = await client.post(path, json=data)
    assert response.status_code == 201, response.text
    row: dict[str, Any] = response.json()
    assert response.headers["location"].endswith(f"/{row['id']}")
    return row


async def walk(client: httpx.AsyncClient, path: str) -> list[Any]:
    """The rows of all pages."""
    rows: list[Any] = []
    while path:
        response = await client.get(path)
        assert response.status_code == 200, response.text
        rows += response.json()
        path = response.links.get("next", {}).get("url", "")
    return rows


def assert_problem(
    response: httpx.Response, status: int, *locations: tuple[str | int, ...]
) -> None:
    """The response is a problem document; for each location, an error is reported there."""
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/problem+json"
    assert response.headers["cache-control"] == "no-store"
    problem = response.json()
    assert problem["status"] == status
    assert {"type", "title", "detail"} <= problem.keys()
    assert sorted(tuple(error["loc"]) for error in problem.get("errors", [])) == sorted(locations)
    for error in problem.get("errors", []):
        assert error.keys() == {"loc", "msg", "type"}


class Wire:
    """The statements that reached the database, as the database itself reports them."""

    def __init__(self, pools: Pools, postgres: Postgres | None) -> None:
        self.log = postgres.log if postgres else None
        self.seen: list[str] = []
        if self.log is None:
            for pool in pools.both:
                event.listen(pool.engine.sync_engine, "connect", self.trace_sqlite)

    def trace_sqlite(self, connection: Any, _: object) -> None:
        connection.run_async(lambda driver: driver.set_trace_callback(self.seen.append))

    def clear(self) -> None:
        self.seen.clear()
        self.offset = self.log.stat().st_size if self.log else 0

    def read_log(self) -> str:
        """What PostgreSQL has logged since `clear`."""
        assert self.log is not None
        with self.log.open() as log:
            log.seek(self.offset)
            return log.read()

    def statements(self) -> list[str]:
        """Everything since `clear`, in order, without what a cascade adds on SQLite."""
        if self.log:
            self.seen = re.findall(r"LOG:  (?:statement|execute [^:]*): (.*)", self.read_log())
        return [statement for statement in self.seen if not statement.startswith("--")]

    def verbs(self) -> list[str]:
        return [statement.split()[0].rstrip(";") for statement in self.statements()]


@pytest.fixture
def wire(pools: Pools, url: URL, request: pytest.FixtureRequest) -> Wire:
    sqlite = url.get_backend_name() == "sqlite"
    return Wire(pools, None if sqlite else request.getfixturevalue("postgres"))
