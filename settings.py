"""What the environment, or a `.env` file, may set. README.md has the table."""

from typing import Annotated

from pydantic import BeforeValidator, InstanceOf, PositiveInt
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict
from sqlalchemy import URL, make_url


def parse_database_url(value: str | URL) -> URL:
    """Accepts the URL as platforms hand it out, and names the driver we install for it.

    Raises sqlalchemy.exc.ArgumentError, a ValueError for pydantic, when it is no URL at all.
    """
    url = make_url(value)
    # SQLAlchemy knows only the longer of the two names that libpq gives its URLs.
    if url.drivername in ("postgres", "postgresql"):
        return url.set(drivername="postgresql+psycopg")
    return url


class Settings(BaseSettings):
    model_config = SettingsConfigDict(env_file=".env", extra="ignore")

    database_url: Annotated[InstanceOf[URL], NoDecode, BeforeValidator(parse_database_url)] = (
        make_url("sqlite:///./nutshell.db")
    )
    pool_size: PositiveInt = 4


settings = Settings()
