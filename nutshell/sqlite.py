"""SQLite connections: settings, detection of a replaced file, and a queue for long statements."""

import asyncio
import os
import time
from collections.abc import Callable
from contextvars import ContextVar
from typing import Any

from sqlalchemy import Connection, event
from sqlalchemy.exc import DisconnectionError
from sqlalchemy.ext.asyncio import AsyncEngine

LONG = 100_000  # SQLite instructions, a few milliseconds, after which a statement counts as long
PAUSE = 0.01  # seconds between checks of a long statement that waits for its turn

# Called in the event loop when a statement of the current request turns out to be long.
on_long: ContextVar[Callable[[], None]] = ContextVar("on_long", default=lambda: None)


def prepare_engine(engine: AsyncEngine, path: str | None, limit: Callable[[], float]) -> None:
    """Prepares each connection of the engine. A statement may run for `limit()` seconds."""
    event.listen(engine.sync_engine, "connect", prepare_connection)
    watch_file(engine, path)
    queue_long_statements(engine, limit)


def prepare_connection(connection: Any, _: object) -> None:
    for pragma in ("synchronous=NORMAL", "foreign_keys=ON"):  # migrations/env.py enables WAL
        connection.execute(f"PRAGMA {pragma}").close()
    # Searches use lower() to ignore case. SQLite's own knows only ASCII.
    connection.create_function("lower", 1, fold_case, deterministic=True)


def fold_case(text: str | None) -> str | None:
    # Python's lower() maps a capital sigma at the end of a word to another letter than elsewhere.
    return text and text.casefold()


def begin_immediate(connection: Connection) -> None:
    # Acquire the write lock at the start. A transaction that reads first and locks later fails with
    # "database is locked", however long it waits.
    connection.exec_driver_sql("BEGIN IMMEDIATE")


def watch_file(engine: AsyncEngine, path: str | None) -> None:
    """Discards connections to a file that was deleted or replaced, because their writes would be lost."""

    def identify() -> tuple[int, int] | None:
        try:
            found = os.stat(path or "")
        except OSError:
            return None
        return found.st_dev, found.st_ino

    def remember(_: object, record: Any) -> None:
        record.info["file"] = identify()

    def check(_: object, record: Any, __: object) -> None:
        if record.info["file"] != identify():
            raise DisconnectionError

    event.listen(engine.sync_engine, "connect", remember)
    event.listen(engine.sync_engine, "checkout", check)


class Holder:
    """A request that holds a connection, and its deadline."""

    def __init__(self, limit: float) -> None:
        self.since = time.monotonic()
        self.until = self.since + limit
        self.loop = asyncio.get_running_loop()
        self.on_long = on_long.get()


def queue_long_statements(engine: AsyncEngine, limit: Callable[[], float]) -> None:
    """Runs one long statement at a time, the oldest first, and interrupts statements past their deadline.

    Each statement runs in a thread. Several threads that scan large tables would starve short statements
    and the event loop.
    """
    queue: set[Holder] = set()

    def watch(connection: Any, record: Any) -> None:
        def pause() -> bool:
            """SQLite calls this in the connection's thread. Returning True interrupts the statement."""
            holder = record.info.get("holder")
            if holder is not None and holder not in queue:
                queue.add(holder)
                holder.loop.call_soon_threadsafe(holder.on_long)
            while holder is not None and time.monotonic() < holder.until:
                if holder is min(list(queue), key=lambda other: other.since, default=holder):
                    return False
                time.sleep(PAUSE)
                if record.info.get("holder") is not holder:  # the request was cancelled
                    holder = None
            return True

        connection.run_async(lambda driver: driver.set_progress_handler(pause, LONG))

    def hold(_: object, record: Any, __: object) -> None:
        record.info["holder"] = Holder(limit())

    def release(_: object, record: Any) -> None:
        queue.discard(record.info.pop("holder", None))

    event.listen(engine.sync_engine, "connect", watch)
    event.listen(engine.sync_engine, "checkout", hold)
    event.listen(engine.sync_engine, "checkin", release)
