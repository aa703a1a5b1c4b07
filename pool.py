"""The connections that requests borrow: lent in the order of asking, and for seconds only."""

import asyncio
import socket
from contextlib import suppress
from typing import Any

import psycopg
from sqlalchemy.pool import AsyncAdaptedQueuePool
from sqlalchemy.util import await_
from sqlalchemy.util.queue import AsyncAdaptedQueue, Empty

# For which a request may hold a connection. With the wait for one it stays below ten.
SECONDS = 5


class FairQueue(AsyncAdaptedQueue[Any]):
    """The free connections of a pool, and a place in line for each who waits for one.

    In SQLAlchemy's queue a newcomer takes what has just come back, and whoever had waited for it
    lines up again, behind all others (its issue 7679). bench/results.md has the difference.
    """

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.free = asyncio.Semaphore(0)

    def put_nowait(self, item: Any) -> None:
        super().put_nowait(item)
        self.free.release()

    def get(self, block: bool = True, timeout: float | None = None) -> Any:
        if not self.free.locked():
            await_(self.free.acquire())
        elif block:
            await_(self.wait(timeout))
        else:
            raise Empty
        return self.get_nowait()

    async def wait(self, seconds: float | None) -> None:
        try:
            async with asyncio.timeout(seconds):
                await self.free.acquire()
        except TimeoutError:
            raise Empty from None


class FairPool(AsyncAdaptedQueuePool):
    _queue_class = FairQueue


def set_deadline(connection: Any, record: Any, _: object) -> None:
    # A frozen database never answers, and what it is asked cannot be cancelled: to hang up is all
    # that helps. The driver then reports a lost connection.
    driver = connection.driver_connection
    loop = asyncio.get_running_loop()
    record.record_info["deadline"] = loop.call_later(SECONDS, hang_up, driver)


def clear_deadline(_: object, record: Any) -> None:
    # There is none after a connection that could not be made.
    if deadline := record.record_info.pop("deadline", None):
        deadline.cancel()


def hang_up(driver: psycopg.AsyncConnection) -> None:
    with suppress(psycopg.Error, OSError), socket.fromfd(driver.fileno(), 0, 0) as copy:
        copy.shutdown(socket.SHUT_RDWR)
