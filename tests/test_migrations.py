"""How the schema comes to be: in whole steps or not at all, once however many start it."""

import asyncio
import logging
import shutil
import sqlite3
import subprocess
import sys
from pathlib import Path
from typing import Any

import httpx
import pytest
from alembic import command
from alembic.config import Config
from alembic.script import ScriptDirectory
from sqlalchemy import URL, create_engine, inspect, make_url, text
from sqlalchemy.exc import DBAPIError
from sqlmodel import SQLModel

import main
from nutshell.tests.fixtures import Pools, use_pools
from nutshell.app import lifespan
from nutshell.health import HEAD, KNOWN
from nutshell.migrate import MIGRATIONS
from nutshell.settings import settings
from nutshell.tests.postgres import Postgres
from nutshell.tests.service import ROOT, alembic, checkout, copy_tree, plain_environment
from tests.rows import HEADERS, ROWS

REVISIONS = [s.revision for s in ScriptDirectory.from_config(MIGRATIONS).walk_revisions()][::-1]


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


def rows(url: URL) -> dict[str, list[dict[str, Any]]]:
    """All rows of the service's tables."""
    engine = create_engine(url)
    with engine.connect() as connection:
        found = {
            name: [
                dict(row._mapping) for row in connection.execute(text(f'SELECT * FROM "{name}"'))
            ]
            for name in tables(url) - {"alembic_version"}
        }
    engine.dispose()
    return found


def test_revisions_are_those_that_alembic_knows() -> None:
    assert set(REVISIONS) == KNOWN
    assert ScriptDirectory.from_config(MIGRATIONS).get_heads() == [HEAD]


def test_migrations_go_up_down_and_up_again_without_drift(
    empty_url: URL, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(settings, "database_url", empty_url)
    command.upgrade(MIGRATIONS, "head")
    assert revision(empty_url) == HEAD
    command.downgrade(MIGRATIONS, "base")
    assert tables(empty_url) == {"alembic_version"}
    command.upgrade(MIGRATIONS, "head")
    assert revision(empty_url) == HEAD
    done = alembic(empty_url, "check", tree=checkout())
    assert done.returncode == 0, done.stderr


async def test_each_migration_goes_down_and_up_and_keeps_what_rows_it_can(
    empty_url: URL, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(settings, "database_url", empty_url)
    await asyncio.to_thread(command.upgrade, MIGRATIONS, "head")
    pools = Pools(empty_url, 1)
    use_pools(pools, monkeypatch)
    transport = httpx.ASGITransport(main.app)
    url = "http://127.0.0.1"
    async with httpx.AsyncClient(transport=transport, base_url=url, headers=HEADERS) as client:
        for number, make in enumerate(ROWS.values()):
            await make(client, number)
    await pools.dispose()
    before = rows(empty_url)
    assert any(before.values()) is bool(ROWS)
    for target in REVISIONS[-2::-1]:
        await asyncio.to_thread(command.downgrade, MIGRATIONS, target)
        for name, found in rows(empty_url).items():
            for row, old in zip(found, before[name], strict=True):
                assert row.items() <= old.items(), f"a downgrade to {target} changed {name}"
    kept = rows(empty_url)
    await asyncio.to_thread(command.upgrade, MIGRATIONS, "head")
    assert {name: len(found) for name, found in rows(empty_url).items()} == {
        name: len(kept.get(name, [])) for name in before
    }


@pytest.mark.slow
def test_command_line_takes_the_url_as_a_platform_hands_it_out(empty_url: URL) -> None:
    given = empty_url
    if empty_url.get_backend_name() == "postgresql":
        given = empty_url.set(drivername="postgres")
        assert "%40" in given.render_as_string(hide_password=False)
    done = alembic(given, "upgrade", "head", tree=checkout())
    assert done.returncode == 0, done.stderr
    assert f"-> {REVISIONS[0]}" in done.stderr
    assert revision(empty_url) == HEAD


def test_failing_migration_leaves_nothing(
    empty_url: URL, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(settings, "database_url", empty_url)
    shutil.copy(ROOT / "alembic.ini", tmp_path)
    shutil.copytree(ROOT / "migrations", tmp_path / "migrations")
    config = Config(tmp_path / "alembic.ini")
    command.upgrade(config, "head")
    before = tables(empty_url)
    for number, statements in [
        ("9998", ["CREATE TABLE whole (id INTEGER)"]),
        ("9999", ["CREATE TABLE half (id INTEGER)", "SELECT * FROM nowhere"]),
    ]:
        (tmp_path / f"migrations/versions/{number}.py").write_text(
            "from alembic import op\n"
            f"revision, down_revision = '{number}', '{'9998' if number == '9999' else HEAD}'\n"
            "def upgrade() -> None:\n"
            f"    for statement in {statements}:\n"
            "        op.execute(statement)\n"
        )
    with pytest.raises(DBAPIError, match="nowhere"):
        command.upgrade(config, "head")
    assert revision(empty_url) == HEAD
    assert tables(empty_url) == before
    (tmp_path / "migrations/versions/9999.py").unlink()
    command.upgrade(config, "head")
    assert revision(empty_url) == "9998"


def test_tables_that_are_copied_still_reuse_no_id(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """SQLite alters most things only by copying the table. See NEVER_REUSE_IDS in nutshell/fields.py."""
    url = make_url(f"sqlite:///{tmp_path}/test.db")
    monkeypatch.setattr(settings, "database_url", url)
    shutil.copy(ROOT / "alembic.ini", tmp_path)
    shutil.copytree(ROOT / "migrations", tmp_path / "migrations")
    config = Config(tmp_path / "alembic.ini")
    command.upgrade(config, "head")
    found = [
        name
        for name, table in SQLModel.metadata.tables.items()
        if name in tables(url) and table.dialect_options["sqlite"]["autoincrement"]
    ]
    if not found:
        pytest.skip("no table has AUTOINCREMENT")
    with sqlite3.connect(str(url.database)) as connection:
        connection.executemany("INSERT INTO sqlite_sequence VALUES (?, 41)", [(t,) for t in found])
    connection.close()
    (tmp_path / "migrations/versions/9999.py").write_text(
        "from alembic import op\n"
        f"revision, down_revision = '9999', '{HEAD}'\n"
        "def upgrade() -> None:\n"
        f"    for table in {found}:\n"
        "        with op.batch_alter_table(table, recreate='always'):\n"
        "            pass\n"
    )
    command.upgrade(config, "head")
    with sqlite3.connect(str(url.database)) as connection:
        last = dict(connection.execute("SELECT name, seq FROM sqlite_sequence"))
        made = dict(connection.execute("SELECT name, sql FROM sqlite_master WHERE type = 'table'"))
    connection.close()
    assert last == dict.fromkeys(found, 41)
    assert [table for table in found if "AUTOINCREMENT" not in made[table]] == []


@pytest.mark.slow
def test_printed_migrations_make_the_same_schema(empty_url: URL, postgres: Postgres) -> None:
    """`--sql` is for whoever may not migrate themselves. It asks no database."""
    away = "sqlite:////nowhere/nutshell.db"
    if empty_url.get_backend_name() == "postgresql":
        away = "postgresql://nobody:nothing@127.0.0.1:1/nowhere"
    printed = alembic(away, "upgrade", "head", "--sql", tree=checkout())
    if "requires a live database connection" in printed.stderr:
        pytest.skip("SQLite adds a constraint by copying the table, which Alembic must read first")
    assert printed.returncode == 0, printed.stderr
    if empty_url.get_backend_name() == "sqlite":
        connection = sqlite3.connect(str(empty_url.database))
        connection.executescript(printed.stdout)
        connection.close()
    else:
        postgres.execute(printed.stdout, str(empty_url.database))
    assert revision(empty_url) == HEAD
    done = alembic(empty_url, "check", tree=checkout())
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.slow
async def test_four_upgrades_at_once_all_succeed(empty_url: URL) -> None:
    calls = [
        asyncio.to_thread(alembic, empty_url, "upgrade", "head", tree=checkout()) for _ in range(4)
    ]
    done = await asyncio.gather(*calls)
    assert [process.returncode for process in done] == [0] * 4, [p.stderr for p in done]
    assert sum(f"-> {REVISIONS[0]}" in process.stderr for process in done) == 1
    assert revision(empty_url) == HEAD


@pytest.mark.slow
def test_new_migration_says_what_must_be_done_first(empty_url: URL) -> None:
    done = alembic(empty_url, "revision", "--autogenerate", "-m", "a", tree=checkout())
    assert done.returncode != 0
    assert "First run: alembic upgrade head" in done.stderr + done.stdout


EVERY_TYPE = """

from decimal import Decimal
from typing import Annotated, Literal
from uuid import UUID
from sqlalchemy import Index, String
from sqlmodel import Field, SQLModel
from nutshell.columns import JSON_TEXT, MONEY, Exact, ExactNumeric, Json, Money, allow_only
from nutshell.fields import Url, Uuid, uuid7

class EveryType(SQLModel, table=True):
    __tablename__ = "every_type"
    __table_args__ = (allow_only("state", Literal["draft", "sent"]), Index(None, "amount", "id"))

    id: UUID = Field(default_factory=uuid7, primary_key=True)
    amount: Money = Field(sa_type=MONEY)
    rate: Annotated[Decimal, Exact(10, 3)] | None = Field(default=None, sa_type=ExactNumeric(10, 3))
    data: Json = Field(sa_type=JSON_TEXT)
    state: Literal["draft", "sent"] = Field(sa_type=String)
    url: Url | None = None
    code: Uuid | None = Field(default=None, unique=True)
"""


@pytest.mark.slow
def test_new_migration_makes_a_column_of_every_type(empty_url: URL, tmp_path: Path) -> None:
    tree = copy_tree(tmp_path / "tree")
    with (tree / "models.py").open("a") as models:
        models.write(EVERY_TYPE)
    before = set((tree / "migrations/versions").glob("*.py"))
    for arguments in (
        ("upgrade", "head"),
        ("revision", "--autogenerate", "-m", "Create every type"),
        ("upgrade", "head"),
        ("check",),
        ("downgrade", "-1"),
    ):
        done = alembic(empty_url, *arguments, tree=tree)
        assert done.returncode == 0, done.stdout + done.stderr
    (written,) = set((tree / "migrations/versions").glob("*.py")) - before
    text = written.read_text()
    assert 'sa.Numeric(15, 2).with_variant(sa.BigInteger(), "sqlite")' in text
    assert "ck_every_type_state" in text
    assert "nutshell" not in text


def test_models_have_names_for_all_constraints() -> None:
    """Without a name, a migration cannot drop it."""
    for table in SQLModel.metadata.sorted_tables:
        assert all(constraint.name for constraint in table.constraints), table.name


async def test_start_brings_sqlite_to_head_and_leaves_loggers_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = make_url(f"sqlite:///{tmp_path}/new.db")
    monkeypatch.setattr(settings, "database_url", url)
    use_pools(Pools(url, 1), monkeypatch)
    monkeypatch.setattr("nutshell.app.introduce", lambda: None)  # sets up the service's own log
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
    monkeypatch.setattr("nutshell.app.introduce", lambda: None)
    async with lifespan(main.app):
        assert tables(url) == set()


@pytest.mark.slow
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
