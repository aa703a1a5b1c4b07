"""Settings from the environment or a `.env` file. docs/operating.md lists them."""

import os
import re
import sys
from pathlib import Path
from typing import Annotated, Any, Literal, Self
from urllib.parse import unquote

from psycopg.conninfo import make_conninfo
from psycopg.pq import Conninfo, PGconn
from pydantic import (
    BeforeValidator,
    Field,
    InstanceOf,
    PositiveInt,
    SecretStr,
    ValidationError,
    field_validator,
    model_validator,
)
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict
from sqlalchemy import URL, make_url

# Other clients' parameters, which do not apply: no statements are prepared, and POOL_SIZE limits the
# connections.
HARMLESS = frozenset(
    {"connection_limit", "pgbouncer", "pool", "pool_timeout", "supa"}
    | {"prepared_statement_cache_size", "statement_cache_size"}
)
# Platforms that start several machines, by a variable that each sets.
MANY_MACHINES = {"FLY_APP_NAME": "Fly", "VERCEL": "Vercel"} | dict.fromkeys(
    ("K_SERVICE", "CLOUD_RUN_JOB"), "Cloud Run"
)

# This folder may be deleted.
LIVE_VIEW = Path(__file__).with_name("live") / "view.py"
KNOWN = frozenset(option.keyword.decode() for option in Conninfo.get_defaults())


def parse_database_url(value: str | URL) -> URL:
    """Accepts a URL in the forms that platforms provide, and selects the installed driver.

    Raises ValueError, whose message never contains the URL, because it may contain a password.
    """
    if isinstance(value, URL):
        return value
    scheme, _, rest = value.partition("://")
    if scheme == "sqlite":
        return parse_sqlite(value)
    if not re.fullmatch(r"postgres(ql)?(\+\w+)?", scheme):  # with any driver
        raise ValueError("neither postgresql:// nor sqlite:///")
    address, _, parameters = rest.partition("?")
    # The password may contain an unescaped comma, colon, slash or @.
    user, _, place = address.rpartition("@")
    name, _, password = user.partition(":")
    hosts, _, database = place.partition("/")
    query = dict(make_url(f"scheme://?{parameters}").query)
    if query.get("schema") == "public":
        del query["schema"]
    query = {key: text for key, text in query.items() if key not in HARMLESS}
    if "ssl" in query:  # asyncpg's name
        ssl = query.pop("ssl")
        query.setdefault("sslmode", "require" if ssl == "true" else ssl)
    if unknown := sorted(query.keys() - KNOWN):
        raise ValueError(f"unknown to libpq: {', '.join(unknown)}")
    check_values(query)
    host, port = parse_hosts(hosts)
    if "," in host:
        query |= {"host": host, "port": port}
        host = port = ""
    return URL.create(
        "postgresql+psycopg",
        unquote(name) or None,
        unquote(password) or None,
        host or None,
        int(port) if port else None,
        unquote(database) or None,
        query,
    )


def check_values(query: dict[str, Any]) -> None:
    """Raises ValueError for a value that libpq rejects, such as `sslmode=no-verify`."""
    # libpq checks them before it connects, and no socket can exist in this folder.
    attempt = PGconn.connect_start(make_conninfo(**query | {"host": "/dev/null"}).encode())
    message = attempt.error_message.decode().strip()
    attempt.finish()
    if message.startswith("invalid"):
        raise ValueError(f"libpq: {message}")


def parse_hosts(hosts: str) -> tuple[str, str]:
    """Splits into hosts and ports, both separated by commas as in libpq."""
    names, ports = [], []
    for part in hosts.split(","):
        found = re.fullmatch(r"(?P<host>\[[^\]]*\]|[^:\[\]]*)(?::(?P<port>\d+))?", part)
        if found is None:
            raise ValueError("not a URL such as postgresql://user:password@host/name")
        names.append(found["host"].strip("[]"))
        ports.append(found["port"] or "")
    if len(names) > 1:
        return ",".join(names), ",".join(port or "5432" for port in ports)
    return names[0], ports[0]


def parse_sqlite(value: str) -> URL:
    url = make_url(value)
    if url.database in (None, "", ":memory:"):
        raise ValueError("SQLite needs a file, as in sqlite:///./nutshell.db")
    return url


def without_secrets(url: URL) -> str:
    """Renders the URL without its user. Parameters may contain a password too: only harmless ones are kept."""
    harmless = {"host", "port", "sslmode", "target_session_attrs"}
    query = {name: value for name, value in url.query.items() if name in harmless}
    return URL.create(
        url.get_backend_name(), host=url.host, port=url.port, database=url.database, query=query
    ).render_as_string()


def parse_origin(value: str) -> str:
    """Normalizes an origin to the form that browsers send: lower case, no trailing slash, no default port."""
    origin = value.lower().removesuffix("/")
    for scheme, port in (("http://", ":80"), ("https://", ":443")):
        if origin.startswith(scheme):
            origin = origin.removesuffix(port)
    if origin != "*" and not re.fullmatch(r"[a-z][a-z\d+.-]*://[^\s/?#@]+", origin):
        raise ValueError(f"{value} is not an origin such as https://app.example.com")
    return origin


def parse_root_path(value: str) -> str:
    path = value.strip("/")
    if not re.fullmatch(r"[\w.~/-]*", path, re.ASCII):
        raise ValueError("not a path such as /api")
    return path and f"/{path}"


def split_commas(value: str | list[str]) -> list[str]:
    if isinstance(value, str):
        return [part.strip() for part in value.split(",") if part.strip()]
    return value


def parse_tokens(value: str | SecretStr) -> str | SecretStr:
    """Several tokens allow one to be replaced while callers switch to the next.

    Raises ValueError for a token that HTTP libraries cannot send in a header.
    """
    if isinstance(value, SecretStr):
        return value
    if not (tokens := split_commas(value)):
        raise ValueError("no token")
    if not re.fullmatch("[ -~]+", value):
        raise ValueError("use only printable ASCII characters")
    return ",".join(tokens)


DatabaseURL = Annotated[InstanceOf[URL], NoDecode, BeforeValidator(parse_database_url)]
Origin = Annotated[str, BeforeValidator(parse_origin)]
Origins = Annotated[list[Origin], NoDecode, BeforeValidator(split_commas)]
Tokens = Annotated[SecretStr, BeforeValidator(parse_tokens)]


class Settings(BaseSettings):
    model_config = SettingsConfigDict(env_file=".env", extra="ignore")

    database_url: DatabaseURL = make_url("sqlite:///./nutshell.db")
    database_read_url: DatabaseURL | None = None
    pool_size: PositiveInt = 4
    api_token: Tokens | None = None
    api_read_token: Tokens | None = None
    open_local: bool = False
    cors_origins: Origins = []
    root_path: Annotated[str, BeforeValidator(parse_root_path)] = ""
    port: Annotated[int, Field(ge=1, le=65535)] = 8000
    web_concurrency: PositiveInt = 1
    forwarded_allow_ips: str = "*"
    log_format: Literal["text", "json"] = "text"
    log_health: bool = True
    trace: bool = False

    @field_validator("*", mode="before")
    @classmethod
    def strip(cls, value: Any) -> Any:
        """Values from files and clipboards often end in a newline."""
        return value.strip() if isinstance(value, str) else value

    @field_validator("trace")
    @classmethod
    def check_view(cls, value: bool) -> bool:
        if value and not LIVE_VIEW.exists():
            raise ValueError("the live view is not here: nutshell/live was deleted")
        return value

    @model_validator(mode="after")
    def check_replica(self) -> Self:
        urls = [url for url in (self.database_url, self.database_read_url) if url is not None]
        if len(urls) == 2 and any(url.get_backend_name() == "sqlite" for url in urls):
            raise ValueError("DATABASE_READ_URL: SQLite has no replicas")
        return self

    @model_validator(mode="after")
    def check_file(self) -> Self:
        for name, platform in MANY_MACHINES.items():
            if name in os.environ and "database_url" not in self.model_fields_set:
                raise ValueError(
                    f"DATABASE_URL: not set. {platform} runs several machines, and each would keep its"
                    " data in a file of its own. Attach a PostgreSQL"
                )
        return self

    @model_validator(mode="after")
    def check_tokens(self) -> Self:
        both = [
            tokens.get_secret_value() for tokens in (self.api_token, self.api_read_token) if tokens
        ]
        if len(both) == 2 and set(both[0].split(",")) & set(both[1].split(",")):
            raise ValueError(
                "API_READ_TOKEN: one of its tokens is in API_TOKEN too, which allows writing"
            )
        return self


def variable(location: tuple[str | int, ...]) -> str:
    return f"{str(location[0]).upper()}: " if location else ""


def read_settings() -> Settings:
    """Ends the process with one line for each invalid variable."""
    try:
        return Settings()
    except ValidationError as refusal:
        sys.exit(
            "\n".join(
                f"{variable(error['loc'])}{error['msg'].removeprefix('Value error, ')}"
                for error in refusal.errors(include_input=False)
            )
        )


settings = read_settings()
