"""What the environment, or a `.env` file, may set. README.md has the table."""

import re
import sys
from typing import Annotated, Any, Self
from urllib.parse import unquote

from psycopg.pq import Conninfo
from pydantic import (
    AfterValidator,
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

# What other clients' parameters say that needs no saying here: we prepare no statements, and
# POOL_SIZE is the limit of connections.
HARMLESS = frozenset({"pgbouncer", "connection_limit", "pool_timeout", "statement_cache_size"})
KNOWN = frozenset(option.keyword.decode() for option in Conninfo.get_defaults())


def parse_database_url(value: str | URL) -> URL:
    """Accepts the URL as platforms hand it out, and names the driver that we install for it.

    Raises ValueError, without the URL and so without its password.
    """
    if isinstance(value, URL):
        return value
    scheme, _, rest = value.partition("://")
    if scheme == "sqlite":
        return parse_sqlite(value)
    if scheme not in ("postgres", "postgresql", "postgresql+psycopg"):
        raise ValueError("neither postgresql:// nor sqlite:///")
    address, _, parameters = rest.partition("?")
    # A password may hold a comma, a colon, a slash or an @ that nobody has escaped.
    user, _, place = address.rpartition("@")
    name, _, password = user.partition(":")
    hosts, _, database = place.partition("/")
    query = dict(make_url(f"scheme://?{parameters}").query)
    if query.get("schema") == "public":
        del query["schema"]
    query = {key: text for key, text in query.items() if key not in HARMLESS}
    if unknown := sorted(query.keys() - KNOWN):
        raise ValueError(f"libpq knows no parameter {', '.join(unknown)}")
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


def parse_hosts(hosts: str) -> tuple[str, str]:
    """The hosts and the ports, each separated by commas, as libpq has them."""
    names, ports = [], []
    for part in hosts.split(","):
        found = re.fullmatch(r"(?P<host>\[[^\]]*\]|[^:\[\]]*)(?::(?P<port>\d+))?", part)
        if found is None:
            raise ValueError("no URL; it looks like postgresql://user:password@host/name")
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


def split_commas(value: str | list[str]) -> list[str]:
    if isinstance(value, str):
        return [part.strip() for part in value.split(",") if part.strip()]
    return value


def check_token(value: SecretStr) -> SecretStr:
    """Refuses what no client can send in a header: HTTP libraries accept ASCII alone."""
    if not re.fullmatch("[ -~]+", value.get_secret_value()):
        raise ValueError("use visible ASCII letters alone, at least one")
    return value


DatabaseURL = Annotated[InstanceOf[URL], NoDecode, BeforeValidator(parse_database_url)]
CommaSeparated = Annotated[list[str], NoDecode, BeforeValidator(split_commas)]


class Settings(BaseSettings):
    model_config = SettingsConfigDict(env_file=".env", extra="ignore")

    database_url: DatabaseURL = make_url("sqlite:///./nutshell.db")
    database_read_url: DatabaseURL | None = None
    pool_size: PositiveInt = 4
    api_token: Annotated[SecretStr, AfterValidator(check_token)] | None = None
    open_local: bool = False
    cors_origins: CommaSeparated = []
    port: Annotated[int, Field(ge=1, le=65535)] = 8000
    web_concurrency: PositiveInt = 1
    forwarded_allow_ips: str = "*"
    trace: bool = False

    @field_validator("*", mode="before")
    @classmethod
    def strip(cls, value: Any) -> Any:
        """Files and clipboards often end in a newline."""
        return value.strip() if isinstance(value, str) else value

    @model_validator(mode="after")
    def check_replica(self) -> Self:
        urls = [url for url in (self.database_url, self.database_read_url) if url is not None]
        if len(urls) == 2 and any(url.get_backend_name() == "sqlite" for url in urls):
            raise ValueError("DATABASE_READ_URL: a replica is for two PostgreSQL URLs, not SQLite")
        return self


def variable(location: tuple[str | int, ...]) -> str:
    return f"{str(location[0]).upper()}: " if location else ""


def read_settings() -> Settings:
    """Ends the process, with a line for each variable that makes no sense."""
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
