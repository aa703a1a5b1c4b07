"""The process: what it logs, and how it is started."""

import logging
from typing import Any

import pytest
import uvicorn
from pydantic import SecretStr
from sqlalchemy import make_url

from nutshell import __main__ as process
from nutshell.middleware import Formatter, request_id
from nutshell.settings import settings


@pytest.mark.parametrize(
    ("message", "shown"),
    [
        ("GET /users 200", "GET /users 200"),
        ("GET /users/ada@example.com 404", "GET /users/(e-mail) 404"),
        ("GET /users/ada%40example.com 404", "GET /users/(e-mail) 404"),
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


def test_first_line_tells_the_database_and_no_password(monkeypatch: pytest.MonkeyPatch) -> None:
    secret = "postgresql+psycopg://u:sesame@h:5433/d?sslmode=require&passfile=x&password=sesame"
    monkeypatch.setattr(settings, "database_url", make_url(secret))
    monkeypatch.setattr(settings, "database_read_url", make_url(secret))
    monkeypatch.setattr(settings, "api_token", SecretStr("sesame"))
    line = process.describe()
    assert "postgresql://h:5433/d?sslmode=require, reads from postgresql://h:5433/d" in line
    assert line.endswith("Open to callers with the token.")
    assert "sesame" not in line
    monkeypatch.setattr(settings, "database_url", make_url("sqlite:///a.db"))
    monkeypatch.setattr(settings, "api_token", None)
    line = process.describe()
    assert "sqlite:///a.db (a PaaS discards this file; set DATABASE_URL)" in line
    assert line.endswith("Open to local callers only, no API_TOKEN.")


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """The options with which uvicorn is started."""
    options: dict[str, Any] = {}
    monkeypatch.setattr(logging.config, "dictConfig", lambda _: None)
    monkeypatch.setattr(uvicorn, "run", lambda **given: options.update(given))
    return options


def test_service_listens_to_all_and_a_learner_to_this_machine(started: dict[str, Any]) -> None:
    process.serve(reload=False)
    assert (started["host"], started["reload"]) == ("0.0.0.0", False)
    assert started["timeout_keep_alive"] > 90, "a router keeps idle connections that long"
    process.serve(reload=True)
    assert (started["host"], started["reload"]) == ("127.0.0.1", True)


def test_several_workers_share_one_socket(
    started: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(settings, "web_concurrency", 2)
    monkeypatch.setattr(settings, "port", 0)
    supervisors: list[process.Supervisor] = []
    monkeypatch.setattr(process.Supervisor, "run", lambda self: supervisors.append(self))
    process.serve(reload=False)
    (supervisor,) = supervisors
    (listener,) = supervisor.sockets
    assert listener.getsockname()[1] > 0
    supervisor.terminate_all()
    assert listener.fileno() == -1, "the port is free while the workers finish"
    assert started == {}
