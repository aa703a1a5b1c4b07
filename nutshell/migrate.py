"""SQLite's migrations at start. A server's are the release's: `alembic upgrade head`."""

from pathlib import Path
from typing import Literal

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from sqlalchemy import NullPool, create_engine

from nutshell.settings import settings

MIGRATIONS = Config(Path(__file__).parents[1] / "alembic.ini")


def migrate_sqlite(which: Literal["any file", "a new file"]) -> None:
    """Brings SQLite's tables to the newest schema. A PaaS throws away what its release step made.

    A server is migrated in the release step alone: web processes must not race to change a schema.
    """
    if which == "a new file":
        engine = create_engine(settings.database_url, poolclass=NullPool)
        with engine.connect() as connection:
            if MigrationContext.configure(connection).get_current_revision() is not None:
                return
    command.upgrade(MIGRATIONS, "head")
