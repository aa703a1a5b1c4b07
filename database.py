"""The session-per-request pattern, whole: two engines, and `get_session` that uses them."""

from collections.abc import AsyncIterator
from functools import cache
from typing import Annotated, Any, TypeVar, cast

from fastapi import Depends, Request
from sqlalchemy import URL, Connection, bindparam, case, event, inspect, or_, update
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine
from sqlmodel import select
from sqlmodel.ext.asyncio.session import AsyncSession as PlainSession
from sqlmodel.sql.expression import SelectOfScalar

from pool import FairPool, clear_deadline, set_deadline
from settings import settings

SAFE_METHODS = frozenset({"GET", "HEAD"})  # the safe ones that we route: RFC 9110, 9.2.1

Row = TypeVar("Row")


def make_engines(
    url: URL, pool_size: int, read_url: URL | None = None
) -> tuple[AsyncEngine, AsyncEngine]:
    """The reader and the writer, a pool each. They connect on first use."""
    pool: dict[str, Any] = {
        "poolclass": FairPool,
        "pool_size": pool_size,
        # No overflow: a request waits its turn, and never longer than these seconds.
        "max_overflow": 0,
        "pool_timeout": 4,
        "hide_parameters": True,  # an error's text ends in the log, what callers send must not
    }
    # A single statement needs no transaction: without one a read is one round trip, not three.
    autocommit: dict[str, Any] = {
        "isolation_level": "AUTOCOMMIT",
        "skip_autocommit_rollback": True,
    }
    if url.get_backend_name() != "sqlite":
        # Statements prepared on the server break behind proxies that pool by transaction.
        pool["connect_args"] = {"prepare_threshold": None, "connect_timeout": 4}
        reader = create_async_engine(read_url or url, **pool, **autocommit)
        writer = create_async_engine(url, **pool)
        for engine in (reader, writer):
            event.listen(engine.sync_engine, "checkout", set_deadline)
            event.listen(engine.sync_engine, "checkin", clear_deadline)
        return reader, writer

    url = url.set(drivername="sqlite+aiosqlite")
    # The driver must not begin transactions by itself, for it would begin them too late.
    pool["connect_args"] = {"isolation_level": None, "timeout": 4}
    reader = create_async_engine(url, **pool, **autocommit)
    # SQLite has one write lock: one connection makes writers queue here, fairly, and not there.
    writer = create_async_engine(url, **pool | {"pool_size": 1})
    for engine in (reader, writer):
        event.listen(engine.sync_engine, "connect", prepare_sqlite)
    event.listen(writer.sync_engine, "begin", begin_immediate)
    return reader, writer


def prepare_sqlite(connection: Any, _: object) -> None:
    for pragma in ("synchronous=NORMAL", "foreign_keys=ON"):  # WAL: see migrations/env.py
        connection.execute(f"PRAGMA {pragma}").close()
    # SQLite's own lower() knows only ASCII.
    connection.create_function("lower", 1, lower, deterministic=True)


def lower(text: str | None) -> str | None:
    return text and text.lower()


def begin_immediate(connection: Connection) -> None:
    # A transaction that reads first and asks for the write lock later can fail with "database is
    # locked" however long it waits; this asks at once, and waits.
    connection.exec_driver_sql("BEGIN IMMEDIATE")


reader, writer = make_engines(settings.database_url, settings.pool_size, settings.database_read_url)


@cache
def by_id(entity: Any, lock: bool) -> SelectOfScalar[Any]:
    (key,) = inspect(entity).primary_key
    query = select(entity).where(key == bindparam("id"))
    return query.with_for_update() if lock else query


@cache
def update_by_id(entity: Any, names: tuple[str, ...]) -> Any:
    mapper = inspect(entity)
    table, (key,) = mapper.local_table, mapper.primary_key
    new = {name: bindparam(f"b_{name}", type_=table.c[name].type) for name in names}
    values: dict[str, Any] = dict(new)
    if mapper.version_id_col is not None:  # which tells callers whether anything has changed
        changed = or_(*(table.c[name].is_distinct_from(value) for name, value in new.items()))
        values[mapper.version_id_col.name] = mapper.version_id_col + case((changed, 1), else_=0)
    query = update(table).where(key == bindparam("b_ident")).values(values).returning(table)
    return select(entity).from_statement(query).execution_options(populate_existing=True)


class AsyncSession(PlainSession):
    """SQLModel's session with savings for every request; bench/results.md has their gain."""

    async def get(  # type: ignore[override]  # (of classes alone)
        self, entity: type[Row], ident: Any, **options: Any
    ) -> Row | None:
        """As ever, but the first by a statement that was built once and not for each request."""
        lock = options.get("with_for_update", False)
        plain = options.keys() <= {"with_for_update"} and lock in (False, True)
        if not plain or type(ident) is tuple or len(self.identity_map):
            return await super().get(entity, ident, **options)
        query = by_id(cast(Any, entity), lock)
        return (await self.exec(query, params={"id": ident})).one_or_none()

    async def update(
        self, entity: type[Row], ident: Any, values: dict[str, Any], **options: Any
    ) -> Row | None:
        """UPDATE … RETURNING: changes the row and gets it in one statement, or None without it.

        The ORM's own way is to `get` the row, locked, to set attributes, and to commit: for a route
        that decides by what is stored.
        """
        if not values:
            return await self.get(entity, ident, **options)
        query = update_by_id(cast(Any, entity), tuple(values))
        if "options" in options:
            query = query.options(*options["options"])
        parameters = {f"b_{name}": value for name, value in values.items()}
        changed = await self.exec(query, params={"b_ident": ident, **parameters})
        return cast(Row | None, changed.scalar_one_or_none())

    async def __aexit__(self, *_: object) -> None:
        # SQLAlchemy closes in a task of its own, lest it be cancelled; FastAPI sees to that.
        await self.close()


async def get_session(request: Request) -> AsyncIterator[AsyncSession]:
    """One session for one request. What the route has not committed when it ends is rolled back.

    A safe method reads, each statement for itself; any other writes, in one transaction.
    """
    engine = reader if request.method in SAFE_METHODS else writer
    # Only idempotency.py opens a transaction beforehand; then a commit is a savepoint inside it.
    bind = getattr(request.state, "transaction", engine)
    # expire_on_commit=False: the response is built after the commit from what is loaded already.
    async with AsyncSession(
        bind, expire_on_commit=False, join_transaction_mode="create_savepoint"
    ) as session:
        yield session


# scope="function" closes the session before the response leaves. By default that happens after,
# and whatever fails then fails behind the back of a caller who was told that all is well.
SessionDep = Annotated[AsyncSession, Depends(get_session, scope="function")]
