"""How the schema comes to be: in whole steps or not at all, once however many start it."""

import asyncio
import logging
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from alembic import command
from alembic.config import Config
from sqlalchemy import URL, create_engine, inspect, make_url, text
from sqlalchemy.exc import DBAPIError

import main
from nutshell.tests.fixtures import Pools, use_pools
from nutshell.app import HEAD, MIGRATIONS, lifespan
from nutshell.settings import settings
from nutshell.tests.postgres import Postgres
from nutshell.tests.service import ROOT, alembic, checkout, plain_environment

TABLES = {"alembic_version", "users", "posts", "todos", "items", "idempotency_keys"}


def tables(url: URL) -> set[str]:
    engine = create_engine(url)
    try:
        return set(inspect(engine).get_table_names())
    finally:
        engine.dispose()


def revision(url: URL) -> str | None:
    engine = create_engine(url)
    try:
        with engine.connect() as connection:
            found = connection.scalar(text("SELECT version_num FROM alembic_version"))
            return None if found is None else str(found)
    finally:
        engine.dispose()


def test_migrations_go_up_down_and_up_again_without_drift(
    empty_url: URL, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(settings, "database_url", empty_url)
    command.upgrade(MIGRATIONS, "head")
    assert tables(empty_url) == TABLES
    assert alembic(empty_url, "check").returncode == 0
    command.downgrade(MIGRATIONS, "base")
    assert tables(empty_url) == {"alembic_version"}
    command.upgrade(MIGRATIONS, "head")
    assert tables(empty_url) == TABLES
    assert revision(empty_url) == HEAD
    assert alembic(empty_url, "check").returncode == 0


def test_downgrade_of_bio_keeps_rows(empty_url: URL, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(settings, "database_url", empty_url)
    command.upgrade(MIGRATIONS, "head")
    engine = create_engine(empty_url)
    insert = (
        "INSERT INTO users (email, name, bio, created_at)"
        " VALUES ('a@example.com', 'Ada', 'First.', '2030-01-01 00:00:00')"
    )
    with engine.begin() as connection:
        connection.execute(text(insert))
    command.downgrade(MIGRATIONS, "0001")
    command.upgrade(MIGRATIONS, "head")
    with engine.connect() as connection:
        rows = connection.execute(text("SELECT email, bio FROM users")).all()
    engine.dispose()
    assert [tuple(row) for row in rows] == [("a@example.com", None)]


def test_command_line_takes_the_url_as_a_platform_hands_it_out(empty_url: URL) -> None:
    given = empty_url
    if empty_url.get_backend_name() == "postgresql":
        given = empty_url.set(drivername="postgres")
        assert "%40" in given.render_as_string(hide_password=False)
    done = alembic(given, "upgrade", "head")
    assert done.returncode == 0, done.stderr
    assert "Running upgrade 0001 -> 0002" in done.stderr
    assert revision(empty_url) == HEAD


def test_failing_migration_leaves_nothing(
    empty_url: URL, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(settings, "database_url", empty_url)
    shutil.copy(ROOT / "alembic.ini", tmp_path)
    shutil.copytree(ROOT / "migrations", tmp_path / "migrations")
    config = Config(tmp_path / "alembic.ini")
    command.upgrade(config, "0001")
    failing = tmp_path / "migrations/versions/9999_fail.py"
    failing.write_text(
        "from alembic import op\n"
        f"revision, down_revision = '9999', '{HEAD}'\n"
        "def upgrade() -> None:\n"
        "    op.execute('CREATE TABLE half (id INTEGER)')\n"
        "    op.execute('INSERT INTO half VALUES (1)')\n"
        "    op.execute('SELECT * FROM nowhere')\n"
    )
    with pytest.raises(DBAPIError, match="nowhere"):
        command.upgrade(config, "head")
    assert revision(empty_url) == "0001"
    assert tables(empty_url) == TABLES - {"idempotency_keys"}
    failing.unlink()
    command.upgrade(config, "head")
    assert revision(empty_url) == HEAD


async def test_four_upgrades_at_once_all_succeed(empty_url: URL) -> None:
    done = await asyncio.gather(
        *(asyncio.to_thread(alembic, empty_url, "upgrade", "head") for _ in range(4))
    )
    assert [process.returncode for process in done] == [0] * 4, [p.stderr for p in done]
    assert sum("Running upgrade  -> 0001" in process.stderr for process in done) == 1
    assert revision(empty_url) == HEAD


async def test_start_brings_sqlite_to_head_and_leaves_loggers_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = make_url(f"sqlite:///{tmp_path}/new.db")
    monkeypatch.setattr(settings, "database_url", url)
    use_pools(Pools(url, 1), monkeypatch)
    logger = logging.getLogger("an.application.logger")
    handlers = list(logging.getLogger().handlers)
    async with lifespan(main.app):
        assert revision(url) == HEAD
    assert not logger.disabled
    assert logging.getLogger().handlers == handlers


async def test_start_does_not_migrate_postgresql(
    postgres: Postgres, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = postgres.create_database("not_migrated")
    monkeypatch.setattr(settings, "database_url", url)
    use_pools(Pools(url, 1), monkeypatch)
    async with lifespan(main.app):
        assert tables(url) == set()


async def test_several_processes_start_on_one_new_sqlite_file(tmp_path: Path) -> None:
    url = make_url(f"sqlite:///{tmp_path}/new.db")
    script = (
        "import asyncio, main\n"
        "from nutshell import database\n"
        "from nutshell.app import lifespan\n"
        "async def start():\n"
        "    async with lifespan(main.app), database.writer.engine.begin(): pass\n"
        "asyncio.run(start())\n"
    )

    def start() -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-c", script],
            cwd=checkout(),
            env=plain_environment(DATABASE_URL=url),
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )

    done = await asyncio.gather(*(asyncio.to_thread(start) for _ in range(4)))
    assert [process.returncode for process in done] == [0] * 4, [p.stderr for p in done]
    assert revision(url) == HEAD
