"""Migrates SQLite at startup. PostgreSQL is migrated in the release step: `alembic upgrade head`."""

from pathlib import Path
from typing import Literal

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from sqlalchemy import Connection, NullPool, Table, create_engine, event, text
from sqlmodel import SQLModel

from nutshell.settings import settings

COPY = "_alembic_tmp_"  # how Alembic calls the copy of a table that SQLite cannot alter

HAS_AUTOINCREMENT = "SELECT 1 FROM sqlite_master WHERE name = :copy AND sql LIKE '%AUTOINCREMENT%'"
COPY_LAST_ID = (
    "INSERT INTO sqlite_sequence SELECT :copy, seq FROM sqlite_sequence WHERE name = :table"
)

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


@event.listens_for(Table, "before_create")
def keep_autoincrement(table: Table, *_: object, **__: object) -> None:
    # Alembic does not see the AUTOINCREMENT of a table that it copies.
    model = SQLModel.metadata.tables.get(table.name.removeprefix(COPY))
    if table.name.startswith(COPY) and model is not None:
        table.dialect_kwargs["sqlite_autoincrement"] = model.kwargs.get("sqlite_autoincrement")


@event.listens_for(Table, "before_drop")
def keep_last_id(table: Table, connection: Connection | None, **_: object) -> None:
    # The copy knows only the ids of the rows that are left.
    if connection is None or connection.dialect.name != "sqlite":  # None: `--sql`
        return
    names = {"copy": COPY + table.name, "table": table.name}
    if connection.scalar(text(HAS_AUTOINCREMENT), names):
        connection.execute(text("DELETE FROM sqlite_sequence WHERE name = :copy"), names)
        connection.execute(text(COPY_LAST_ID), names)
