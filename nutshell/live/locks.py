"""Finds out which requests wait for a lock of PostgreSQL, which row it is, and who holds it.

PostgreSQL is asked on a connection of the view's own, and only while a statement takes longer than 20 ms:
at first every 20 ms, then ten times a second. During a wait of three seconds this took 80 ms of CPU here, and
0.7 ms in the server for each question. Shorter waits may not be seen. The server must be version 14 or newer,
and not behind a pooler, which hides the ids of its processes.
"""

import asyncio
from contextlib import suppress

from sqlalchemy import literal_column, select, text
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncConnection
from sqlmodel import SQLModel

from nutshell import database
from nutshell.engines import make_engine
from nutshell.live import feed
from nutshell.live.observer import owners
from nutshell.live.trace import Trace

SOON, SELDOM = 0.02, 0.1  # seconds between two questions, at first and then
PATIENCE = 20  # ms that a statement may take before anything is asked

# A request that waits for a row holds, or waits for, a lock of the type "tuple". For others, such as an
# INSERT of a value that another transaction has just inserted, only the transaction is known.
WAITS = text("""
SELECT waiting.pid, pg_blocking_pids(waiting.pid),
    1000 * extract(epoch FROM clock_timestamp() - waiting.waitstart) AS waited,
    waiting.locktype, coalesce(waiting.relation, row.relation)::regclass::text, row.page, row.tuple
FROM pg_locks AS waiting
LEFT JOIN pg_locks AS row ON row.pid = waiting.pid AND row.locktype = 'tuple'
WHERE NOT waiting.granted AND waiting.pid = ANY(:processes)
""")


async def watch_locks() -> None:
    """Runs until it is cancelled."""
    engine = make_engine(database.writer.engine.url, 1, autocommit=True)
    try:
        pause = SOON
        while True:
            await asyncio.sleep(pause)
            suspects = slow_requests()
            pause = min(2 * pause, SELDOM) if suspects else SOON
            if suspects:
                with suppress(SQLAlchemyError):  # the request itself reports what is wrong
                    async with engine.connect() as connection:
                        await find_waits(connection, suspects)
    finally:
        await engine.dispose()


def slow_requests() -> dict[int, Trace]:
    """The requests whose current statement takes long, by the server's process."""
    return {
        trace.backend: trace
        for trace in feed.running.values()
        if trace.backend and trace.step and trace.now() - trace.step.start > PATIENCE
    }


async def find_waits(connection: AsyncConnection, suspects: dict[int, Trace]) -> None:
    steps = {process: trace.step for process, trace in suspects.items()}
    rows = (await connection.execute(WAITS, {"processes": list(suspects)})).all()
    blocked = {process: holders for process, holders, *_ in rows}
    waiting = set()
    for process, _, waited, kind, table, page, place in rows:
        trace = suspects[process]
        step = steps[process]
        if step is None or trace.step is not step:  # it has gone on in the meantime
            continue
        waiting.add(process)
        if trace.lock is None:
            began = max(step.start, trace.now() - float(waited or 0))
            locked = await name_lock(connection, kind, table, page, place)
            if trace.step is step:
                trace.lock = trace.open("lock", text=locked)
                trace.lock.start = began
        elif trace.lock.end is not None:  # the next in the queue was let in, and it waits again
            trace.lock.end = None
        if trace.lock is not None:
            found = [owners[each].number for each in blockers(process, blocked) if each in owners]
            trace.lock.by = sorted({*trace.lock.by, *found})
    for process, trace in suspects.items():
        if process not in waiting:
            trace.shut(trace.lock)


def blockers(process: int, blocked: dict[int, list[int]]) -> set[int]:
    """Those that it waits for, and those that these wait for in turn."""
    found: set[int] = set()
    queue = [process]
    while queue:
        new = set(blocked.get(queue.pop(), [])) - found
        found |= new
        queue.extend(new)
    return found - {process}


async def name_lock(
    connection: AsyncConnection, kind: str, table: str | None, page: int | None, place: int | None
) -> str:
    if kind == "relation":
        return f"the table {table}"
    if page is None or place is None:
        return "a row that is not committed yet" if kind == "transactionid" else f"a lock ({kind})"
    if (model := SQLModel.metadata.tables.get(table or "")) is None:
        return f"a row of {table}"
    # The row as it was before the holder changed it, which nobody else can see yet.
    where = literal_column("ctid") == literal_column(f"'({page},{place})'::tid")
    key = (await connection.execute(select(*model.primary_key.columns).where(where))).first()
    return f"a row of {table}" if key is None else f"row {', '.join(map(str, key))} of {table}"
