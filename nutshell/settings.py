"""What the environment, or a `.env` file, may set. README.md has the table."""

import re
import sys
from typing import Annotated

from pydantic import BeforeValidator, Field, InstanceOf, PositiveInt, SecretStr, ValidationError
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict
from sqlalchemy import URL, make_url
from sqlalchemy.exc import ArgumentError

# libpq's form for several hosts, which SQLAlchemy wants as parameters.
SEVERAL_HOSTS = re.compile(
    r"(?P<scheme>\w+)://(?P<user>[^@/]*@)?(?P<hosts>[^/?@]*,[^/?@]*)(?P<name>/[^?]*)?\??(?P<rest>.*)"
)


def parse_database_url(value: str | URL) -> URL:
    """Accepts the URL as platforms hand it out, and names the driver that we install for it.

    Raises ValueError, without the URL and so without its password.
    """
    if isinstance(value, str) and (parts := SEVERAL_HOSTS.fullmatch(value)):
        hosts = "&".join(f"host={host}" for host in parts["hosts"].split(","))
        value = "{scheme}://{user}{name}?".format_map(parts.groupdict("")) + hosts
        value += "&" + parts["rest"] if parts["rest"] else ""
    try:
        url = make_url(value)
    except (ArgumentError, ValueError):
        raise ValueError("no URL; it looks like postgresql://user:password@host/name") from None
    if url.drivername in ("postgres", "postgresql", "postgresql+psycopg"):
        return url.set(drivername="postgresql+psycopg")
    if url.drivername == "sqlite":
        if url.database in (None, "", ":memory:"):
            raise ValueError("SQLite needs a file, as in sqlite:///./nutshell.db")
        return url
    raise ValueError("neither postgresql:// nor sqlite:///")


def split_commas(value: str | list[str]) -> list[str]:
    if isinstance(value, str):
        return [part.strip() for part in value.split(",") if part.strip()]
    return value


DatabaseURL = Annotated[InstanceOf[URL], NoDecode, BeforeValidator(parse_database_url)]
CommaSeparated = Annotated[list[str], NoDecode, BeforeValidator(split_commas)]


class Settings(BaseSettings):
    model_config = SettingsConfigDict(env_file=".env", extra="ignore")

    database_url: DatabaseURL = make_url("sqlite:///./nutshell.db")
    database_read_url: DatabaseURL | None = None
    pool_size: PositiveInt = 4
    api_token: Annotated[SecretStr, Field(min_length=1)] | None = None
    cors_origins: CommaSeparated = []
    port: Annotated[int, Field(ge=1, le=65535)] = 8000
    web_concurrency: PositiveInt = 1
    trace: bool = False


def read_settings() -> Settings:
    """Ends the process, with a line for each variable that makes no sense."""
    try:
        return Settings()
    except ValidationError as refusal:
        sys.exit(
            "\n".join(
                f"{str(error['loc'][0]).upper()}: {error['msg'].removeprefix('Value error, ')}"
                for error in refusal.errors(include_input=False)
            )
        )


settings = read_settings()
