"""uvicorn's server and supervisor, adapted. Every process imports them."""

import logging
import socket

import uvicorn
from uvicorn.supervisors import Multiprocess

from nutshell.settings import settings

logger = logging.getLogger("nutshell")

BURST = 16  # connections that are accepted at once


class Server(uvicorn.Server):
    """Logs its address as soon as it accepts connections."""

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        # In each turn of its loop, uvloop accepts one connection per socket (libuv's pull request 3696).
        # Under load a turn takes long, so the port gets several sockets.
        await super().startup([each.dup() for each in sockets or [] for _ in range(BURST)] or None)
        if self.started:
            log_address()


def log_address() -> None:
    url = f"http://127.0.0.1:{settings.port}"
    view = f", live view {url}/trace" if settings.trace else ""
    logger.info("Listening on %s, documentation %s/docs%s", url, url, view)


class Supervisor(Multiprocess):
    """Closes the port as soon as it stops the workers, and notices at once when one ends.

    New connections are then refused while the workers finish their requests. Otherwise they would wait
    for a response that never comes.
    """

    def keep_subprocess_alive(self) -> None:
        # The supervisor pings each worker through a pipe. If it holds the worker's end open itself, a
        # worker that dies does not close the pipe, and the supervisor waits until the ping times out.
        for process in self.processes:
            process.child_conn.close()
        super().keep_subprocess_alive()

    def terminate_all(self) -> None:
        for listener in self.sockets:
            listener.close()
        super().terminate_all()
