"""Long statements on SQLite: they wait for each other, and others do not wait for them."""

import sqlite3
import threading
import time
from pathlib import Path

import httpx
import pytest
from sqlalchemy import URL, make_url, text
from sqlalchemy.exc import OperationalError

from nutshell import engines
from nutshell.tests.service import BEARER, TOKEN, Service, Variables, copy_library

ROWS = 300_000
SEARCHERS = 8

SEARCH = """
from sqlmodel import func, select

@app.get("/search")
async def search(session: SessionDep, q: str) -> int:
    query = select(func.count()).select_from(Book).where(col(Book.title).icontains(q))
    return (await session.exec(query)).one()
"""
ENDLESS = text(
    "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT count(*) FROM n"
)


@pytest.fixture
def sqlite_url(tmp_path: Path) -> URL:
    sqlite3.connect(tmp_path / "test.db").close()
    return make_url(f"sqlite:///{tmp_path}/test.db")


async def test_statement_without_end_is_interrupted(
    sqlite_url: URL, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engines, "HOLD", 0.2)
    monkeypatch.setattr(engines, "WAIT", 0.2)
    for pool in engines.make_pools(sqlite_url, 1):
        began = time.monotonic()
        async with pool.engine.connect() as connection:
            with pytest.raises(OperationalError, match="interrupted"):
                await connection.execute(ENDLESS)
            assert 0.4 <= time.monotonic() - began < 5
            assert await connection.scalar(text("SELECT 1")) == 1
        await pool.engine.dispose()


@pytest.mark.slow
def test_searches_on_sqlite_keep_nobody_else_waiting(tmp_path: Path) -> None:
    tree = copy_library(tmp_path / "tree")
    with (tree / "main.py").open("a") as module:
        module.write(SEARCH)
    variables: Variables = {"DATABASE_URL": f"sqlite:///{tmp_path}/test.db", "API_TOKEN": TOKEN}
    with Service(variables, tree=tree) as service:
        with sqlite3.connect(tmp_path / "test.db") as database:
            titles = ((f"The title of book {number}",) for number in range(ROWS))
            database.executemany("INSERT INTO books (title) VALUES (?)", titles)
        stop = threading.Event()
        searches: list[tuple[int, float]] = []

        def search() -> None:
            with service.client() as client:
                while not stop.is_set():
                    began = time.monotonic()
                    status = client.get("/search?q=zebra").status_code
                    searches.append((status, time.monotonic() - began))

        began = time.monotonic()
        httpx.get(f"{service.url}/search?q=zebra", headers=BEARER, timeout=30).raise_for_status()
        alone = time.monotonic() - began
        threads = [threading.Thread(target=search) for _ in range(SEARCHERS)]
        for thread in threads:
            thread.start()
        took = []
        with service.client() as client:
            until = time.monotonic() + 10
            while time.monotonic() < until:
                began = time.monotonic()
                assert client.get("/books/1").status_code == 200
                took.append(time.monotonic() - began)
                time.sleep(0.02)
        stop.set()
        for thread in threads:
            thread.join()
        print(
            f"one search alone {alone:.2f} s; {len(searches)} by {SEARCHERS} callers,"
            f" at most {max(seconds for _, seconds in searches):.1f} s;"
            f" beside them {len(took)} GETs, at most {max(took):.2f} s"
        )
        assert {status for status, _ in searches} <= {200, 503}
        assert max(took) < 0.5 + alone
