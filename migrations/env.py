"""How Alembic reaches the database: one transaction for the whole run, one run at a time."""

import logging
import sqlite3
import sys
import time
from collections.abc import Callable
from logging.config import fileConfig
from typing import Any, Literal

import psycopg
from alembic import command, context
from alembic.util import CommandError
from sqlalchemy import Connection, Engine, NullPool, create_engine, event, text
from sqlalchemy.exc import OperationalError
from sqlmodel import SQLModel

import models  # noqa: F401 (its tables register themselves with SQLModel.metadata)
import nutshell.idempotency  # its table registers itself too
import nutshell.migrate  # noqa: F401 (it keeps the ids of tables that are copied)
from nutshell.columns import ExactNumeric
from nutshell.health import KNOWN, refuse_revision
from nutshell.log import explain
from nutshell.settings import settings, without_secrets

logger = logging.getLogger("alembic.env")

MIGRATION_LOCK = 7_305_808_869  # any number that nothing else locks

PATIENCE = 60  # seconds to wait for other processes that migrate the same SQLite file

# Only on the command line: in the service, logging belongs to the service.
if context.config.cmd_opts is not None and context.config.config_file_name is not None:
    fileConfig(context.config.config_file_name, disable_existing_loggers=False)

# Which migrations it runs, and no more.
logging.getLogger("alembic.runtime.migration").filters = [
    lambda record: record.msg.startswith("Running")
]


def use_wal(connection: sqlite3.Connection, _: object) -> None:
    # In this journal readers and the writer do not wait for each other. The file remembers it.
    wait_for_others(lambda: connection.execute("PRAGMA journal_mode=WAL"))


def begin_immediate(connection: Connection) -> None:
    wait_for_others(lambda: connection.exec_driver_sql("BEGIN IMMEDIATE"))


def wait_for_others(execute: Callable[[], object]) -> None:
    """Tries until no other process has the file locked.

    SQLite's own timeout does not cover a change of the journal, and Ctrl-C does not end it.
    """
    deadline = time.monotonic() + PATIENCE
    while True:
        try:
            execute()
        except (sqlite3.OperationalError, OperationalError) as error:
            driver = error.orig if isinstance(error, OperationalError) else error
            busy = getattr(driver, "sqlite_errorname", "") == "SQLITE_BUSY"
            if not busy or time.monotonic() > deadline:
                raise
            time.sleep(0.05)
        else:
            return


def include_name(name: str | None, kind: str, _: object) -> bool:
    # Not every database can have an index by trigrams, so the models do not name one.
    return not (kind == "index" and str(name).endswith("_trigrams"))


def render_item(kind: str, item: Any, _: object) -> str | Literal[False]:
    # A migration stays as it is when the service's own types change, so it names SQLAlchemy's.
    if isinstance(item, ExactNumeric):
        exact = f"sa.Numeric({item.precision}, {item.scale})"
        return f'{exact}.with_variant(sa.BigInteger(), "sqlite")'
    return False


def log_notices(connection: psycopg.Connection, _: object) -> None:
    connection.add_notice_handler(log_warning)


def log_warning(notice: psycopg.errors.Diagnostic) -> None:
    """Logs what a migration reports by RAISE WARNING."""
    if notice.severity_nonlocalized == "WARNING":
        logger.warning(notice.message_primary)


def print_statements() -> None:
    """Does what `--sql` asks for. It needs no database."""
    context.configure(
        url=settings.database_url,
        target_metadata=SQLModel.metadata,
        literal_binds=True,
        render_as_batch=True,
        transactional_ddl=True,
    )
    with context.begin_transaction():
        context.run_migrations()


def connect(engine: Engine) -> Connection:
    """On the command line, no database is a line and not a traceback."""
    try:
        return engine.connect()
    except OperationalError as error:
        if context.config.cmd_opts is None:
            raise
        sys.exit(f"DATABASE_URL: {without_secrets(settings.database_url)}: {explain(error)}")


def is_upgrade() -> bool:
    options = context.config.cmd_opts  # none when the service itself migrates, at its start
    return options is None or options.cmd[0] is command.upgrade


def is_ahead(connection: Connection) -> bool:
    """Whether a newer version has migrated the database, and this one can be released all the same.

    Else a roll-back would end here: Alembic cannot even locate the revision.
    """
    revision = context.get_context().get_current_revision()
    if revision is None or revision in KNOWN:
        return False
    if reason := refuse_revision(connection, revision):
        raise CommandError(reason)
    logger.info("The schema is at %s, ahead of this version: nothing to do.", revision)
    return True


def migrate() -> None:
    url = settings.database_url
    sqlite = url.get_backend_name() == "sqlite"
    connect_args: dict[str, Any] = {"isolation_level": None, "timeout": 0} if sqlite else {}
    engine = create_engine(url, poolclass=NullPool, connect_args=connect_args)
    if sqlite:
        event.listen(engine, "connect", use_wal)
        # Python's driver would leave DDL outside of the transaction.
        event.listen(engine, "begin", begin_immediate)
    else:
        event.listen(engine, "connect", log_notices)
    with connect(engine) as connection, connection.begin():
        if not sqlite:
            connection.execute(
                text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": MIGRATION_LOCK}
            )
        context.configure(
            connection=connection,
            target_metadata=SQLModel.metadata,
            include_name=include_name,
            render_item=render_item,
            render_as_batch=True,  # SQLite alters most things only by copying the table
            transactional_ddl=True,
        )
        if is_upgrade() and is_ahead(connection):
            return
        with context.begin_transaction():
            try:
                context.run_migrations()
            except CommandError as error:
                if "not up to date" in str(error):
                    raise CommandError(f"{error} First run: alembic upgrade head") from None
                raise


if context.is_offline_mode():
    print_statements()
else:
    migrate()
