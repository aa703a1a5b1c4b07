"""What a connection to SQLite needs: its settings, its file watched, and long statements in a queue."""

import asyncio
import os
import time
from collections.abc import Callable
from contextvars import ContextVar
from typing import Any

from sqlalchemy import Connection, event
from sqlalchemy.exc import DisconnectionError
from sqlalchemy.ext.asyncio import AsyncEngine

LONG = 100_000  # instructions of SQLite, some milliseconds, after which a statement is long
PAUSE = 0.01  # seconds until a long statement looks again whether it is its turn

# Called, in the event loop, when a statement of this request turns out to be long.
on_long: ContextVar[Callable[[], None]] = ContextVar("on_long", default=lambda: None)


def prepare_engine(engine: AsyncEngine, path: str | None, limit: Callable[[], float]) -> None:
    """Prepares each connection of the engine. One may be kept for `limit()` seconds by a statement."""
    event.listen(engine.sync_engine, "connect", prepare_connection)
    watch_file(engine, path)
    queue_long_statements(engine, limit)


def prepare_connection(connection: Any, _: object) -> None:
    for pragma in ("synchronous=NORMAL", "foreign_keys=ON"):  # WAL: see migrations/env.py
        connection.execute(f"PRAGMA {pragma}").close()
    # SQLite's own lower() knows only ASCII, and searches use it to ignore case.
    connection.create_function("lower", 1, fold_case, deterministic=True)


def fold_case(text: str | None) -> str | None:
    # Python's lower() writes a sigma at the end of a word differently, and so would not find it.
    return text and text.casefold()


def begin_immediate(connection: Connection) -> None:
    # Takes the write lock at once, and waits for it. A transaction that reads first and takes the
    # lock later fails with "database is locked", however long it waits.
    connection.exec_driver_sql("BEGIN IMMEDIATE")


def watch_file(engine: AsyncEngine, path: str | None) -> None:
    """Discards connections to a file that was deleted or replaced: what they store is lost."""

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
    """A request that holds a connection."""

    def __init__(self, limit: float) -> None:
        self.since = time.monotonic()
        self.until = self.since + limit
        self.loop = asyncio.get_running_loop()
        self.on_long = on_long.get()


def queue_long_statements(engine: AsyncEngine, limit: Callable[[], float]) -> None:
    """Lets one long statement run at a time, the oldest first, and interrupts those that take too long.

    Each statement runs in a thread. Several that scan a large table at once would leave no processor to
    short statements, nor to the event loop.
    """
    queue: set[Holder] = set()

    def watch(connection: Any, record: Any) -> None:
        def pause() -> bool:
            """SQLite calls this in the connection's thread. True interrupts the statement."""
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
