"""uvicorn's server and supervisor, adapted. Every process imports them."""

import logging
import socket

import uvicorn
from uvicorn.supervisors import Multiprocess

from nutshell.settings import settings

logger = logging.getLogger("nutshell")


class Server(uvicorn.Server):
    """Logs its address as soon as it accepts connections."""

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self.started:
            log_address()


def log_address() -> None:
    url = f"http://127.0.0.1:{settings.port}"
    view = f", live view {url}/trace" if settings.trace else ""
    logger.info("Listening on %s, documentation %s/docs%s", url, url, view)


class Supervisor(Multiprocess):
    """Closes the port as soon as it stops the workers.

    New connections are then refused while the workers finish their requests. Otherwise they would wait
    for a response that never comes.
    """

    def terminate_all(self) -> None:
        for listener in self.sockets:
            listener.close()
        super().terminate_all()
