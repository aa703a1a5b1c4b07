"""Migrates SQLite at startup. PostgreSQL is migrated in the release step: `alembic upgrade head`.

SQLite alters most things only by copying the table. Two listeners make such a copy continue the ids.
"""

from pathlib import Path
from typing import Literal

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from sqlalchemy import Connection, NullPool, Table, create_engine, event, text
from sqlmodel import SQLModel

from nutshell.settings import settings

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


def name_copy(table: Table) -> str:
    """What Alembic calls the copy."""
    return f"_alembic_tmp_{table.name}"[:50]


@event.listens_for(Table, "before_create")
def keep_autoincrement(table: Table, *_: object, **__: object) -> None:
    # Alembic does not see the AUTOINCREMENT of a table that it copies.
    for model in SQLModel.metadata.tables.values():
        if table.name == name_copy(model):
            table.dialect_kwargs["sqlite_autoincrement"] = model.kwargs.get("sqlite_autoincrement")


@event.listens_for(Table, "before_drop")
def keep_last_id(table: Table, connection: Connection | None, **_: object) -> None:
    # The copy knows only the ids of the rows that are left.
    if connection is None or connection.dialect.name != "sqlite":  # None: `--sql`
        return
    names = {"copy": name_copy(table), "table": table.name}
    if connection.scalar(text(HAS_AUTOINCREMENT), names):
        connection.execute(text("DELETE FROM sqlite_sequence WHERE name = :copy"), names)
        connection.execute(text(COPY_LAST_ID), names)
