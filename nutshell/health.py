"""Health checks: is the process alive, and can it use its database?"""

import asyncio
import logging
import re
import time
from pathlib import Path
from typing import Any, Literal

from fastapi import HTTPException, Response
from pydantic import BaseModel, Field
from sqlalchemy import URL, Connection, inspect, text
from sqlalchemy.exc import DBAPIError, SQLAlchemyError
from sqlmodel import SQLModel

from nutshell.engines import make_engine
from nutshell.log import explain
from nutshell.settings import settings

logger = logging.getLogger(__name__)

VERSIONS = Path(__file__).parents[1] / "migrations/versions"


def read_revisions() -> tuple[str | None, set[str]]:
    """Returns the newest revision, and all of them.

    Alembic could tell, but on PostgreSQL nothing else needs it at runtime, and importing it costs 4 MB
    and a tenth of the startup time.
    """
    known: set[str] = set()
    followed: set[str] = set()
    for file in VERSIONS.glob("*.py"):
        for line in re.findall(r"(?m)^(?:down_)?revision\b.*", file.read_text()):
            words = re.findall(r"[\"']([^\"']+)[\"']", line.partition("=")[2])
            known.update(words)
            followed.update(words if line.startswith("down") else words[1:])
    return max(known - followed, default=None), known


HEAD, KNOWN = read_revisions()
REVISION = text("SELECT version_num FROM alembic_version")
READ_ONLY = text("SHOW transaction_read_only")
FRESH = 1  # seconds
NO_SCHEMA = "The database has no schema: run alembic upgrade head."
NO_STORE = {"Cache-Control": "no-store"}  # some caches store responses by default


def find_missing(connection: Connection) -> list[str]:
    """Lists the tables and columns of the models that the database lacks."""
    inspector = inspect(connection)
    missing = []
    for table in SQLModel.metadata.sorted_tables:
        if not inspector.has_table(table.name):
            missing.append(table.name)
            continue
        present = {column["name"] for column in inspector.get_columns(table.name)}
        missing += [f"{table.name}.{name}" for name in set(table.columns.keys()) - present]
    return sorted(missing)


def is_wrong_schema(error: DBAPIError) -> bool:
    """Whether a statement used a table or column that the database lacks."""
    cause: Any = error.orig
    if hasattr(cause, "sqlstate"):
        return cause.sqlstate in ("42P01", "42703")  # undefined table, undefined column
    # SQLite has one code for all invalid statements, and specific codes for other errors.
    return getattr(cause, "sqlite_errorname", None) == "SQLITE_ERROR"


class Prober:
    """Checks the database, at most once a second.

    It uses a connection of its own: a busy pool or a locked table does not mean that the database is
    down.
    """

    def __init__(self, url: URL) -> None:
        self.engine = make_engine(url, 1, autocommit=True)
        self.lock = asyncio.Lock()
        self.asked = float("-inf")
        self.reason: str | None = None
        self.revision = HEAD  # the last one found servable

    async def find_reason(self) -> str | None:
        """Returns why the service is not ready, or None. Logs each change once."""
        async with self.lock:
            if time.monotonic() > self.asked + FRESH:
                before = self.reason
                self.reason, cause = await self.ask()
                self.asked = time.monotonic()
                if self.reason is None and before is not None:
                    logger.info("Ready again.")
                elif self.reason != before:
                    logger.warning("Not ready: %s%s", self.reason, cause and f" ({cause})")
            return self.reason

    async def ask(self) -> tuple[str | None, str]:
        """Returns the reason, and details that only the log may contain."""
        try:
            async with self.engine.connect() as connection:
                revision = await connection.scalar(REVISION)
                if revision != self.revision:
                    if reason := await connection.run_sync(refuse_revision, revision):
                        return reason, ""
                    self.revision = revision
                postgresql = connection.dialect.name == "postgresql"
                if postgresql and await connection.scalar(READ_ONLY) == "on":
                    await connection.invalidate()  # the next connection may reach the primary
                    return "The database is read-only.", ""
        except SQLAlchemyError as error:
            if isinstance(error, DBAPIError) and is_wrong_schema(error):
                return NO_SCHEMA, ""
            return "The database does not answer.", explain(error)
        return None, ""


def refuse_revision(connection: Connection, revision: str | None) -> str | None:
    """Returns why this version cannot serve a schema of this revision, or None.

    It can serve its own revision, and an unknown one that contains everything its models need.
    """
    if revision == HEAD:
        return None
    if revision is None:
        return NO_SCHEMA
    if revision in KNOWN:
        return f"The schema is at {revision}, not at {HEAD}: run alembic upgrade head."
    if missing := find_missing(connection):
        return (
            f"The schema is at {revision}, unknown to this version, and lacks {', '.join(missing)}."
        )
    return None


prober = Prober(settings.database_url)


class Health(BaseModel):
    status: Literal["ok"] = "ok"


class Readiness(Health):
    """`ahead`: a newer version has migrated the database, and this one can still serve it."""

    # BaseModel has a `schema` of its own.
    of_schema: Literal["current", "ahead"] = Field(serialization_alias="schema")


async def read_health(response: Response) -> Health:
    """Answers if the process is alive."""
    response.headers.update(NO_STORE)
    return Health()


async def read_readiness(response: Response) -> Readiness:
    """Checks that the database answers, accepts writes, and has a schema that this version can serve."""
    if reason := await prober.find_reason():
        raise HTTPException(503, reason, NO_STORE)
    response.headers.update(NO_STORE)
    return Readiness(of_schema="current" if prober.revision == HEAD else "ahead")
