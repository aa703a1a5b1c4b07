"""What the environment may set, and what happens when it makes no sense."""

from typing import Any

import pytest

from nutshell.settings import Settings, parse_database_url, read_settings


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


def test_cors_origins_are_separated_by_commas(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CORS_ORIGINS", "https://a.example, https://b.example")
    assert Settings().cors_origins == ["https://a.example", "https://b.example"]
    monkeypatch.setenv("CORS_ORIGINS", "")
    assert Settings().cors_origins == []
