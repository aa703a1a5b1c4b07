"""Migrates SQLite at startup. PostgreSQL is migrated in the release step: `alembic upgrade head`."""

from pathlib import Path
from typing import Literal

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from sqlalchemy import NullPool, create_engine

from nutshell.settings import settings

MIGRATIONS = Config(Path(__file__).parents[1] / "alembic.ini")


def migrate_sqlite(which: Literal["any file", "a new file"]) -> None:
    """Upgrades a SQLite file to the newest schema.

    A PaaS discards the file system of its release step, so SQLite cannot be migrated there. A server is
    not migrated here, because web processes must not race to change its schema.
    """
    if which == "a new file":
        engine = create_engine(settings.database_url, poolclass=NullPool)
        with engine.connect() as connection:
            if MigrationContext.configure(connection).get_current_revision() is not None:
                return
    command.upgrade(MIGRATIONS, "head")
