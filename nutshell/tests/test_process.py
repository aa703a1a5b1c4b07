"""The process: what it logs, and how it is started."""

import asyncio
import logging
import socket
import sqlite3
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import uvicorn
from pydantic import SecretStr
from sqlalchemy import make_url
from uvicorn.supervisors import ChangeReload

from nutshell import __main__ as process
from nutshell import app as service
from nutshell import health, server
from nutshell.access import check_access, describe_access
from nutshell.log import Formatter, describe_service, request_id
from nutshell.settings import settings


@pytest.mark.parametrize(
    ("message", "shown"),
    [
        ("GET /books 200", "GET /books 200"),
        ("GET /books/ada@example.com 404", "GET /books/(e-mail) 404"),
        ("GET /books/ada%40example.com 404", "GET /books/(e-mail) 404"),
        ("refused 'ada.l+x@example.com'", "refused '(e-mail)'"),
        ("Key (email)=(ada@example.com)", "Key (email)=((e-mail))"),
    ],
)
def test_log_hides_addresses(message: str, shown: str) -> None:
    token = request_id.set("one")
    record = logging.LogRecord("a", logging.INFO, "", 0, message, (), None)
    line = Formatter("%(request_id)s %(message)s").format(record)
    request_id.reset(token)
    assert line == f"one {shown}"


async def test_stopping_waits_for_every_chore_of_the_start(monkeypatch: pytest.MonkeyPatch) -> None:
    """A chore that is cut off while it gives a connection back keeps the process from ending."""
    ended = []

    async def work(seconds: float) -> None:
        try:
            await asyncio.sleep(60)
        finally:
            await asyncio.sleep(seconds)
            ended.append(seconds)

    monkeypatch.setattr(health.prober, "find_reason", lambda: work(0.01))
    monkeypatch.setattr(service, "purge_old_keys", lambda: work(0.1))
    monkeypatch.setattr(service, "introduce", lambda: None)
    async with service.lifespan(service.create_app("a service", summary="A test.")):
        await asyncio.sleep(0.01)
    assert ended == [0.01, 0.1]


def test_long_line_is_searched_for_addresses_once() -> None:
    record = logging.LogRecord("a", logging.INFO, "", 0, "%s", ("a" * 60_000 + " @",), None)
    began = time.process_time()
    for _ in range(10):
        Formatter("%(message)s").format(record)
    assert time.process_time() - began < 0.5


def test_first_line_tells_the_database_and_no_password(monkeypatch: pytest.MonkeyPatch) -> None:
    secret = "postgresql+psycopg://u:sesame@h:5433/d?sslmode=require&passfile=x&password=sesame"
    monkeypatch.setattr(settings, "database_url", make_url(secret))
    monkeypatch.setattr(settings, "database_read_url", make_url(secret))
    line = describe_service()
    assert "postgresql://h:5433/d?sslmode=require, reads from postgresql://h:5433/d" in line
    assert "sesame" not in line
    monkeypatch.setattr(settings, "database_url", make_url("sqlite:///a.db"))
    line = describe_service()
    assert "sqlite:///a.db (a PaaS discards this file: set DATABASE_URL)" in line


def test_log_tells_who_may_call(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(settings, "open_local", False)
    assert describe_access(check_access).startswith("Closed except for health and documentation")
    monkeypatch.setattr(settings, "open_local", True)
    assert describe_access(check_access) == "Open to local callers, without API_TOKEN."
    monkeypatch.setattr(settings, "api_token", SecretStr("sesame"))
    assert describe_access(check_access) == "Open to callers with a token."
    assert "API_TOKEN" not in describe_access(lambda _: None)


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[list[uvicorn.Config]]:
    """How uvicorn was started, and on which socket: `configs[0].sockets`."""
    configs: list[Any] = []

    def note(config: uvicorn.Config, sockets: list[socket.socket]) -> None:
        configs.append(config)
        config.sockets = sockets  # type: ignore[attr-defined]

    def run(self: uvicorn.Server, sockets: list[socket.socket]) -> None:
        note(self.config, sockets)
        self.started = True

    # Migrations import them, and they may have a table with the name of one of these tests.
    monkeypatch.setitem(sys.modules, "models", ModuleType("models"))
    monkeypatch.setattr(settings, "port", 0)
    monkeypatch.setattr(settings, "database_url", make_url(f"sqlite:///{tmp_path}/test.db"))
    monkeypatch.setattr(logging.config, "dictConfig", lambda _: None)
    monkeypatch.setattr(uvicorn.Server, "run", run)
    monkeypatch.setattr(ChangeReload, "run", lambda self: note(self.config, self.sockets))
    monkeypatch.setattr(server.Supervisor, "run", lambda self: note(self.config, self.sockets))
    yield configs
    for config in configs:
        for listener in config.sockets:
            listener.close()


def test_service_listens_to_all_and_a_learner_to_this_machine(started: list[Any]) -> None:
    process.serve(reload=False)
    process.serve(reload=True)
    service, learner = started
    assert service.timeout_keep_alive > 90, "a router keeps idle connections that long"
    assert (service.should_reload, learner.should_reload) == (False, True)
    assert learner.sockets[0].getsockname()[0] == "127.0.0.1"
    port = service.sockets[0].getsockname()[1]
    for host in ("127.0.0.1", "::1") if socket.has_dualstack_ipv6() else ("127.0.0.1",):
        socket.create_connection((host, port), timeout=2).close()


def test_several_workers_share_one_socket_and_stopping_closes_it(
    started: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(settings, "web_concurrency", 2)
    process.serve(reload=False)
    (listener,) = started[0].sockets
    supervisor = server.Supervisor(started[0], [listener])
    supervisor.terminate_all()
    assert listener.fileno() == -1, "the port is free while the workers finish"


def test_port_in_use_ends_the_start_with_one_line(
    started: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.create_server(("", 0)) as other:
        port = other.getsockname()[1]
        monkeypatch.setattr(settings, "port", port)
        with pytest.raises(SystemExit) as stop:
            process.serve(reload=False)
    assert str(stop.value) == f"PORT: {port}: Address already in use. Set PORT to another."
    assert started == []


def test_bad_sqlite_ends_the_start_with_one_line(
    started: list[Any], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    folder = tmp_path / "missing" / "test.db"
    ahead = tmp_path / "ahead.db"
    no_database = tmp_path / "no.db"
    no_database.write_bytes(b"This is text, and no database." * 100)
    with sqlite3.connect(ahead) as connection:
        connection.execute("CREATE TABLE alembic_version (version_num TEXT)")
        connection.execute("INSERT INTO alembic_version VALUES ('9999')")
    for file, words in [
        (folder, "unable to open database file"),
        (ahead, "The schema is at 9999, unknown to this version, and lacks "),
        (no_database, "file is not a database"),
    ]:
        monkeypatch.setattr(settings, "database_url", make_url(f"sqlite:///{file}"))
        with pytest.raises(SystemExit) as stop:
            process.serve(reload=False)
        line = str(stop.value)
        assert line.startswith(f"DATABASE_URL: sqlite:///{file}: ")
        assert words in line
        assert "\n" not in line
    assert started == []
