"""What the environment may set, and what happens when it makes no sense."""

from pathlib import Path
from typing import Any

import pytest

from nutshell.settings import Settings, parse_database_url, read_settings


@pytest.fixture(autouse=True)
def empty_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)  # where there is no `.env`
    for name in Settings.model_fields:
        monkeypatch.delenv(name.upper(), raising=False)


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (
            "postgres://u:p%40ss@h:5433/d",
            {"user": "u", "password": "p@ss", "host": "h", "port": 5433},
        ),
        ("postgresql://u:p@h/d?sslmode=require", {"sslmode": "require", "dbname": "d"}),
        ("postgresql+psycopg://u@h/d", {"host": "h"}),
        (
            "postgres://u:p%40@a:5432,b:5433/d?target_session_attrs=read-write&sslmode=require",
            {
                "password": "p@",
                "host": "a,b",
                "port": "5432,5433",
                "dbname": "d",
                "target_session_attrs": "read-write",
                "sslmode": "require",
            },
        ),
        ("postgres://u@a,b/d", {"host": "a,b", "user": "u"}),
        ("postgresql:///d?host=/run/postgresql", {"host": "/run/postgresql", "dbname": "d"}),
        ("postgres://u:a,b@h/d", {"password": "a,b", "host": "h"}),
        ("postgres://u:a/b:#,@x@h:1/d", {"password": "a/b:#,@x", "host": "h", "port": 1}),
        ("postgres://u:p@[::1]:5433/d", {"host": "::1", "port": 5433}),
        ("postgres://u@h/d?pgbouncer=true&connection_limit=1&schema=public", {"dbname": "d"}),
        (
            "postgres://u@h/d?sslmode=require&channel_binding=require",
            {"channel_binding": "require"},
        ),
    ],
)
def test_parse_database_url_keeps_every_part(given: str, expected: dict[str, object]) -> None:
    url = parse_database_url(given)
    assert url.drivername == "postgresql+psycopg"
    dialect: Any = url.get_dialect()()
    _, arguments = dialect.create_connect_args(url)
    assert expected.items() <= arguments.items()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("DATABASE_URL", ""),
        ("DATABASE_URL", "nonsense"),
        ("DATABASE_URL", "mysql://u:secret@h/d"),
        ("DATABASE_URL", "postgres://u:secret@h:port/d"),
        ("DATABASE_URL", "postgres://u:secret@h/d?schema=private"),
        ("DATABASE_URL", "postgres://u:secret@h/d?sslaccept=strict"),
        ("DATABASE_URL", "sqlite://"),
        ("DATABASE_URL", "sqlite:///:memory:"),
        ("DATABASE_READ_URL", ""),
        ("POOL_SIZE", ""),
        ("POOL_SIZE", "0"),
        ("POOL_SIZE", "four"),
        ("WEB_CONCURRENCY", ""),
        ("WEB_CONCURRENCY", "0"),
        ("WEB_CONCURRENCY", "auto"),
        ("PORT", ""),
        ("PORT", "70000"),
        ("API_TOKEN", ""),
        ("API_TOKEN", "s\u00e9same"),
        ("API_TOKEN", "open\nsesame"),
    ],
)
def test_senseless_setting_ends_the_start_with_one_line(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(SystemExit) as stop:
        read_settings()
    line = str(stop.value)
    assert line.startswith(f"{name}: ")
    assert "\n" not in line
    assert "secret" not in line


def test_space_around_a_setting_is_dropped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("API_TOKEN", " sesame\n")
    monkeypatch.setenv("DATABASE_URL", "postgres://u@h/nut\n")
    monkeypatch.setenv("FORWARDED_ALLOW_IPS", "10.0.0.1\n")
    settings = Settings()
    assert settings.api_token is not None
    assert settings.api_token.get_secret_value() == "sesame"
    assert settings.database_url.database == "nut"
    assert settings.forwarded_allow_ips == "10.0.0.1"


@pytest.mark.parametrize(
    ("primary", "replica"),
    [("sqlite:///a.db", "postgres://u@h/d"), ("postgres://u@h/d", "sqlite:///a.db")],
)
def test_replica_beside_sqlite_ends_the_start_with_one_line(
    monkeypatch: pytest.MonkeyPatch, primary: str, replica: str
) -> None:
    monkeypatch.setenv("DATABASE_URL", primary)
    monkeypatch.setenv("DATABASE_READ_URL", replica)
    with pytest.raises(SystemExit) as stop:
        read_settings()
    assert str(stop.value).startswith("DATABASE_READ_URL: ")


def test_cors_origins_are_separated_by_commas(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CORS_ORIGINS", "https://a.example, https://b.example")
    assert Settings().cors_origins == ["https://a.example", "https://b.example"]
    monkeypatch.setenv("CORS_ORIGINS", "")
    assert Settings().cors_origins == []
