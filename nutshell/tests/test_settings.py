"""What the environment may set, and what happens when it makes no sense."""

import re
from pathlib import Path
from typing import Any

import pytest

from nutshell.settings import MANY_MACHINES, Settings, parse_database_url, read_settings


@pytest.fixture(autouse=True)
def empty_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)  # where there is no `.env`
    for name in Settings.model_fields:
        monkeypatch.delenv(name.upper(), raising=False)
    for name in MANY_MACHINES:
        monkeypatch.delenv(name, raising=False)


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
        ("postgres://u@h/d?pool=true", {"dbname": "d"}),
        ("postgresql+asyncpg://u@h/d?ssl=require", {"host": "h", "sslmode": "require"}),
        ("postgresql+psycopg2://u@h/d?ssl=true", {"sslmode": "require"}),
        ("postgresql://u:p@/d?host=/cloudsql/a:b:c", {"host": "/cloudsql/a:b:c", "user": "u"}),
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
        ("DATABASE_URL", "postgres://u:secret@h/d?sslmode=no-verify"),
        ("DATABASE_URL", "postgres://u:secret@h/d?target_session_attrs=rw"),
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
        ("API_TOKEN", " , "),
        ("API_READ_TOKEN", ""),
        ("CORS_ORIGINS", "app.example.com"),
        ("CORS_ORIGINS", "https://app.example.com/admin"),
        ("CORS_ORIGINS", "https://good.example, https://user@app.example.com"),
        ("ROOT_PATH", "https://app.example.com/api"),
        ("ROOT_PATH", "/api?x"),
        ("LOG_FORMAT", "xml"),
        ("LOG_HEALTH", "perhaps"),
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


def test_token_that_may_read_and_write_ends_the_start(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("API_TOKEN", "one,two")
    monkeypatch.setenv("API_READ_TOKEN", "three, two")
    with pytest.raises(SystemExit) as stop:
        read_settings()
    assert (
        str(stop.value)
        == "API_READ_TOKEN: one of its tokens is in API_TOKEN too, which allows writing"
    )


@pytest.mark.parametrize("name", ["FLY_APP_NAME", "K_SERVICE", "CLOUD_RUN_JOB", "VERCEL"])
def test_file_of_each_machine_ends_the_start(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setenv(name, "nutshell")
    with pytest.raises(SystemExit) as stop:
        read_settings()
    assert re.fullmatch(r"DATABASE_URL: not set. .* Attach a PostgreSQL", str(stop.value))
    monkeypatch.setenv("DATABASE_URL", "sqlite:////data/nutshell.db")  # on a volume
    assert read_settings().database_url.database == "/data/nutshell.db"


@pytest.mark.parametrize(
    ("given", "path"), [("/api", "/api"), ("api/", "/api"), ("/", ""), ("", ""), ("/a/b", "/a/b")]
)
def test_root_path_begins_with_a_slash(
    monkeypatch: pytest.MonkeyPatch, given: str, path: str
) -> None:
    monkeypatch.setenv("ROOT_PATH", given)
    assert Settings().root_path == path


@pytest.mark.parametrize(
    ("given", "origin"),
    [
        ("https://App.example.com/", "https://app.example.com"),
        ("https://app.example.com:443", "https://app.example.com"),
        ("http://localhost:5173", "http://localhost:5173"),
        ("capacitor://localhost", "capacitor://localhost"),
        ("*", "*"),
    ],
)
def test_origin_is_kept_as_browsers_send_it(
    monkeypatch: pytest.MonkeyPatch, given: str, origin: str
) -> None:
    monkeypatch.setenv("CORS_ORIGINS", given)
    assert Settings().cors_origins == [origin]


def test_cors_origins_are_separated_by_commas(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CORS_ORIGINS", "https://a.example, https://b.example")
    assert Settings().cors_origins == ["https://a.example", "https://b.example"]
    monkeypatch.setenv("CORS_ORIGINS", "")
    assert Settings().cors_origins == []
