"""The database goes away, freezes, fills up: 503 in time, and back without a restart.

Each test first proves that the fault is really there.
"""

import os
import shutil
import signal
import sqlite3
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import psycopg
import pytest

from nutshell.tests.postgres import Postgres, blocked_writes, wait_for_blocked, wait_until
from nutshell.tests.service import (
    BEARER,
    TOKEN,
    Service,
    Variables,
    children,
    migrate,
    workers,
)

pytestmark = pytest.mark.slow

SECONDS = 10  # every answer comes within these
RECOVERY = 5  # the service works again within these, once the database does


@pytest.fixture
def server() -> Iterator[Postgres]:
    """A server of the test's own, to be mistreated."""
    server = Postgres()
    migrate(server.create_database("app"))
    yield server
    if server.process.poll() is None:
        server.process.send_signal(signal.SIGCONT)
    server.close()


@pytest.fixture
def service(server: Postgres) -> Iterator[Service]:
    variables: Variables = {"DATABASE_URL": server.url("app"), "API_TOKEN": TOKEN}
    with Service(variables) as service:
        with service.client() as client:
            assert client.post("/books", json={"title": "before"}).status_code == 201
        yield service


def assert_unavailable(service: Service, *, method: str = "GET", number: int = 1) -> None:
    """So many calls at once are all answered 503 in time."""

    def call(_: int) -> None:
        began = time.monotonic()
        json = {"title": "during"} if method == "POST" else None
        with service.client() as client:
            response = client.request(method, "/books", json=json)
        took = time.monotonic() - began
        assert response.status_code == 503, response.text
        assert response.headers["content-type"] == "application/problem+json"
        assert response.headers["retry-after"] == "1"
        assert took < SECONDS, took

    with ThreadPoolExecutor(number) as pool:
        list(pool.map(call, range(number)))


def assert_recovers(service: Service) -> None:
    deadline = time.monotonic() + RECOVERY
    with service.client() as client:
        while True:
            created = client.post("/books", json={"title": "after"})
            read = client.get("/books")
            ready = client.get("/readyz")
            if {created.status_code, read.status_code, ready.status_code} <= {200, 201}:
                break
            assert time.monotonic() < deadline, (created.text, read.text, ready.text)
            time.sleep(0.1)
    assert " ERROR " not in service.log.read_text()


def test_refused_database(server: Postgres, service: Service) -> None:
    server.stop()
    with pytest.raises(psycopg.OperationalError):
        server.connect()
    for method in ("GET", "POST"):
        assert_unavailable(service, method=method, number=8)
    server.start()
    assert_recovers(service)


def test_restarted_database(server: Postgres, service: Service) -> None:
    """None of the connections that the restart has closed fails a request."""

    def call(number: int) -> int:
        with service.client() as client:
            if number % 2:
                return client.post("/books", json={"title": "after"}).status_code
            return client.get("/books").status_code

    with ThreadPoolExecutor(16) as pool:
        list(pool.map(call, range(64)))  # opens every connection
        before = server.process.pid
        server.stop()
        server.start()
        assert server.process.pid != before
        assert set(pool.map(call, range(64))) == {200, 201}
    assert httpx.get(f"{service.url}/readyz").status_code == 200
    assert " ERROR " not in service.log.read_text()


@pytest.mark.parametrize("number", [1, 30])
def test_frozen_database(server: Postgres, service: Service, number: int) -> None:
    frozen = [server.process.pid, *children(server.process.pid)]
    for pid in frozen:
        os.kill(pid, signal.SIGSTOP)
    try:
        with pytest.raises(psycopg.errors.ConnectionTimeout):
            server.connect()
        for method in ("GET", "POST"):
            assert_unavailable(service, method=method, number=number)
        assert httpx.get(f"{service.url}/healthz", timeout=1).status_code == 200
    finally:
        for pid in frozen:
            os.kill(pid, signal.SIGCONT)
    assert_recovers(service)


def test_connection_cut_in_the_middle_of_a_request(server: Postgres, service: Service) -> None:
    with (
        blocked_writes(server, "app", "books"),
        ThreadPoolExecutor(1) as pool,
        service.client() as client,
    ):
        call = pool.submit(client.post, "/books", json={"title": "cut"})
        wait_for_blocked(server, "app", 1)
        cut = server.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
            " WHERE datname = 'app' AND wait_event_type = 'Lock'"
        )
        assert cut == [(True,)]
        assert call.result().status_code == 503
    assert_recovers(service)
    assert server.execute("SELECT count(*) FROM books WHERE title = 'cut'", "app") == [(0,)]


def test_every_connection_busy(server: Postgres, service: Service) -> None:
    with blocked_writes(server, "app", "books"), ThreadPoolExecutor(20) as pool:

        def create(_: int) -> tuple[int, float]:
            began = time.monotonic()
            response = httpx.post(
                f"{service.url}/books", json={"title": "busy"}, headers=BEARER, timeout=30
            )
            return response.status_code, time.monotonic() - began

        calls = pool.map(create, range(20))
        wait_for_blocked(server, "app", 4)
        # Reads have a pool of their own, so they do not notice.
        assert httpx.get(f"{service.url}/books", headers=BEARER, timeout=2).status_code == 200
        for status, took in calls:
            assert status == 503
            assert took < SECONDS
    assert_recovers(service)


@pytest.fixture
def small_disk() -> Iterator[Path]:
    """A file system of 20 MB.

    It is not in pytest's folder, which each start of pytest closes to other users.
    """
    folder = Path(tempfile.mkdtemp(prefix="nutshell-disk-"))
    mount = ["mount", "-t", "tmpfs", "-o", "size=20m,mode=777", "tmpfs", str(folder)]
    if subprocess.run(mount, capture_output=True, check=False).returncode != 0:
        folder.rmdir()
        pytest.skip("this user may not mount a small file system")
    yield folder
    subprocess.run(["umount", "--lazy", folder], check=True)
    folder.rmdir()


def fill(client: httpx.Client) -> httpx.Response:
    """Creates books until one is refused; answers how."""
    shelf = client.post("/shelves", json={"label": "Top"}).json()
    for number in range(10_000):
        data = {"title": f"{number}", "text": os.urandom(4_999).hex(), "shelf_id": shelf["id"]}
        response = client.post("/books", json=data)
        if response.status_code != 201:
            return response
    raise AssertionError("the disk never filled up")


def test_full_disk_of_postgresql(postgres: Postgres, small_disk: Path) -> None:
    space = small_disk / "space"
    space.mkdir(mode=0o777)
    if postgres.user:
        shutil.chown(space, postgres.user)
    postgres.execute(f"CREATE TABLESPACE small LOCATION '{space}'")
    postgres.execute("CREATE DATABASE small TABLESPACE small")
    try:
        migrate(postgres.url("small"))
        variables: Variables = {"DATABASE_URL": postgres.url("small"), "API_TOKEN": TOKEN}
        with Service(variables) as service, service.client() as client:
            refused = fill(client)
            assert refused.status_code == 503
            assert "No space left on device" in service.log.read_text()
            assert client.get("/books?limit=1").status_code == 200
            shelf = client.get("/shelves").json()[0]
            assert client.delete(f"/shelves/{shelf['id']}").status_code in (204, 503)
            assert " ERROR " not in service.log.read_text()
    finally:
        postgres.execute("DROP DATABASE small WITH (FORCE)")
        postgres.execute("DROP TABLESPACE small")


def test_full_disk_of_sqlite(small_disk: Path) -> None:
    variables: Variables = {"DATABASE_URL": f"sqlite:///{small_disk}/test.db", "API_TOKEN": TOKEN}
    with Service(variables) as service, service.client() as client:
        refused = fill(client)
        assert refused.status_code == 503
        assert "database or disk is full" in service.log.read_text()
        assert client.get("/books?limit=1").status_code == 200
        assert client.get("/readyz").status_code == 200
        assert " ERROR " not in service.log.read_text()


def test_locked_sqlite(tmp_path: Path) -> None:
    file = tmp_path / "test.db"
    with Service({"DATABASE_URL": f"sqlite:///{file}", "API_TOKEN": TOKEN}) as service:
        other = sqlite3.connect(file, isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(sqlite3.OperationalError, match="locked"):
            sqlite3.connect(file, timeout=0).execute("DELETE FROM books")
        assert_unavailable(service, method="POST", number=2)
        assert httpx.get(f"{service.url}/books", headers=BEARER, timeout=2).status_code == 200
        other.execute("ROLLBACK")
        other.close()
        assert_recovers(service)


def test_killed_worker_loses_and_doubles_nothing(server: Postgres) -> None:
    variables: Variables = {
        "DATABASE_URL": server.url("app"),
        "API_TOKEN": TOKEN,
        "WEB_CONCURRENCY": 2,
    }
    stop = threading.Event()
    acknowledged: list[str] = []
    retried: list[str] = []

    def write(writer: int) -> None:
        number = 0
        while not stop.is_set():
            number += 1
            name = f"{writer}.{number}"
            headers = BEARER | {"idempotency-key": name}
            deadline = time.monotonic() + 60
            while True:  # until it is known to be done
                assert time.monotonic() < deadline
                try:
                    response = httpx.post(
                        f"{running.url}/books", json={"title": name}, headers=headers, timeout=30
                    )
                except httpx.TransportError:
                    retried.append(name)
                    time.sleep(0.05)
                    continue
                if response.status_code == 201:
                    acknowledged.append(name)
                    break
                assert response.status_code in (409, 503), response.text
                time.sleep(0.05)

    with Service(variables) as running, ThreadPoolExecutor(8) as pool:
        writers = [pool.submit(write, number) for number in range(8)]
        try:
            for _ in range(4):
                time.sleep(1.5)
                # After a slow start there may be none yet.
                wait_until(lambda: workers(running.process.pid), 60)
                os.kill(workers(running.process.pid)[0], signal.SIGKILL)
            time.sleep(2)
        finally:
            stop.set()
        for writer in writers:
            writer.result()
        assert running.log.read_text().count("died") == 4
    stored = [name for (name,) in server.execute("SELECT title FROM books", "app")]
    print(f"acknowledged {len(acknowledged)}, sent again {len(retried)}, stored {len(stored)}")
    assert len(stored) == len(set(stored)), "no name twice"
    assert set(acknowledged) <= set(stored), "no acknowledged name lost"
    assert retried, "the workers were really killed under load"


def test_client_that_hangs_up_while_it_waits_costs_no_connection(
    server: Postgres, service: Service
) -> None:
    with blocked_writes(server, "app", "books") as blocker:
        for _ in range(4):
            with pytest.raises(httpx.ReadTimeout):
                httpx.post(
                    f"{service.url}/books", json={"title": "gone"}, headers=BEARER, timeout=0.3
                )
        wait_for_blocked(server, "app", 4)
        blocker.rollback()
    assert_recovers(service)
    busy = "SELECT count(*) FROM pg_stat_activity WHERE datname = 'app' AND state <> 'idle'"
    assert server.execute(busy) == [(0,)]


def test_read_only_primary(server: Postgres, service: Service) -> None:
    """As after a switchover, or when an operator protects a disk that fills up."""
    server.execute("ALTER DATABASE app SET default_transaction_read_only = on")
    server.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = 'app'")
    with pytest.raises(psycopg.errors.ReadOnlySqlTransaction):
        server.execute("DELETE FROM books", "app")
    for _ in range(2):
        assert_unavailable(service, method="POST", number=4)
    time.sleep(1.1)  # for as long /readyz repeats its last answer
    assert httpx.get(f"{service.url}/readyz").status_code == 503
    assert httpx.get(f"{service.url}/books", headers=BEARER).status_code == 200
    server.execute("ALTER DATABASE app RESET default_transaction_read_only")
    assert_recovers(service)


def test_locked_table_holds_no_more_backends_than_the_pool_has(
    server: Postgres, service: Service
) -> None:
    # Those that have just begun may meet, for a moment, those that are being cancelled.
    waiting = (
        "SELECT count(*) FROM pg_stat_activity"
        " WHERE wait_event_type = 'Lock' AND query_start < now() - interval '1 second'"
    )
    most = 0
    with blocked_writes(server, "app", "books"), ThreadPoolExecutor(16) as pool:
        stop = time.monotonic() + 15

        def create(_: int) -> None:
            while time.monotonic() < stop:
                response = httpx.post(
                    f"{service.url}/books", json={"title": "a"}, headers=BEARER, timeout=30
                )
                assert response.status_code == 503

        calls = [pool.submit(create, number) for number in range(16)]
        while time.monotonic() < stop:
            most = max(most, server.execute(waiting)[0][0])
            assert httpx.get(f"{service.url}/readyz", timeout=2).status_code == 200
            time.sleep(0.2)
        for call in calls:
            call.result()
    print(f"at most {most} backends waited for the locked table, 16 callers, POOL_SIZE 4")
    assert 1 <= most <= 4
    assert_recovers(service)


def test_locked_table_does_not_make_the_service_unready(server: Postgres, service: Service) -> None:
    with server.connect("app") as connection, ThreadPoolExecutor(20) as pool:
        connection.autocommit = False
        connection.execute("LOCK TABLE books, shelves IN ACCESS EXCLUSIVE MODE")
        calls = [
            pool.submit(httpx.get, f"{service.url}/books", headers=BEARER, timeout=30)
            for _ in range(20)
        ]
        for _ in range(8):
            assert httpx.get(f"{service.url}/readyz", timeout=2).status_code == 200
            time.sleep(1)
        connection.rollback()
        assert {call.result().status_code for call in calls} <= {200, 503}
    assert_recovers(service)


@pytest.mark.parametrize("workers_wanted", [1, 2])
def test_killed_supervisor_leaves_no_worker(server: Postgres, workers_wanted: int) -> None:
    variables: Variables = {
        "DATABASE_URL": server.url("app"),
        "API_TOKEN": TOKEN,
        "WEB_CONCURRENCY": workers_wanted,
    }
    service = Service(variables)
    try:
        service.wait_until_up()
        left = workers(service.process.pid)
        assert len(left) == (workers_wanted if workers_wanted > 1 else 0)
        with blocked_writes(server, "app", "books") as blocker, ThreadPoolExecutor(1) as pool:
            call = pool.submit(
                httpx.post, f"{service.url}/books", json={"title": "a"}, headers=BEARER, timeout=30
            )
            wait_for_blocked(server, "app", 1)
            service.process.kill()
            service.process.wait(10)
            time.sleep(0.5)
            blocker.rollback()
            if workers_wanted > 1:
                assert call.result().status_code == 201, "a worker keeps its last answers"
        wait_until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in left), 10)
        with Service(variables, port=service.port) as again:
            assert httpx.get(f"{again.url}/readyz").status_code == 200
    finally:
        service.kill()
        service.log.unlink()
