"""The process: how the service starts, logs and stops. `python -m nutshell` is all a PaaS runs."""

import logging
import os
import socket
import sqlite3
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

import uvicorn
from sqlalchemy.exc import DBAPIError
from uvicorn.supervisors import ChangeReload, Multiprocess

from nutshell.log import LOGGING, describe_service, set_up_log
from nutshell.protocol import Protocol
from nutshell.settings import settings, without_secrets

logger = logging.getLogger("nutshell")

ROOT = Path(__file__).parents[1]
# --reload does not watch these.
NOT_SERVED = [ROOT / name for name in (".venv", "bench", "nutshell/tests", "tests")]

BACKLOG = 2048  # callers that connect in the same moment


class Supervisor(Multiprocess):
    """uvicorn's supervisor of several workers, but it closes the port at once when it stops.

    New callers are then refused while the workers finish their requests. Otherwise they would wait
    for an answer that never comes.
    """

    def terminate_all(self) -> None:
        for listener in self.sockets:
            listener.close()
        super().terminate_all()


def prepare_sqlite(*, reload: bool) -> None:
    """Ends the process with one line when the file, or its schema, is not what it should be.

    Under --reload a migration is not applied as soon as it is there: nobody has read it yet.
    """
    if settings.database_url.get_backend_name() != "sqlite":
        return
    from alembic.util import CommandError

    from nutshell.migrate import migrate_sqlite

    try:
        migrate_sqlite("a new file" if reload else "any file")
    except (DBAPIError, sqlite3.Error, CommandError) as error:
        reason = getattr(error, "orig", error)
        sys.exit(f"DATABASE_URL: {without_secrets(settings.database_url)}: {reason}")


def listen(host: str) -> socket.socket:
    """Opens the port, for IPv4 and IPv6 unless a host is given. Some private networks are IPv6 alone.

    Ends the process with one line when that cannot be.
    """
    options: dict[str, Any] = {"backlog": BACKLOG}
    if not host and socket.has_dualstack_ipv6():
        options |= {"family": socket.AF_INET6, "dualstack_ipv6": True}
    try:
        listener = socket.create_server((host, settings.port), **options)
    except OSError as error:
        sys.exit(f"PORT: {settings.port}: {os.strerror(error.errno or 0)}. Set PORT to another.")
    listener.set_inheritable(True)  # by the workers
    return listener


def serve(*, reload: bool) -> None:
    set_up_log()
    logger.info(describe_service())
    prepare_sqlite(reload=reload)
    listener = listen("127.0.0.1" if reload else "")
    url = f"http://127.0.0.1:{listener.getsockname()[1]}"
    view = f", live view {url}/trace" if settings.trace else ""
    logger.info("Listening on %s, documentation %s/docs%s", url, url, view)
    config = uvicorn.Config(
        "main:app",
        http=Protocol,
        reload=reload,
        reload_excludes=[str(path) for path in NOT_SERVED if path.is_dir()] if reload else None,
        workers=settings.web_concurrency,
        log_config=LOGGING,
        access_log=False,  # middleware.py has a better one
        server_header=False,
        # Routers and load balancers have no fixed address, and access.py trusts no client's.
        forwarded_allow_ips=settings.forwarded_allow_ips,
        # A router that reuses a connection just as it is closed answers 502: outlast its 90 s.
        timeout_keep_alive=95,
        timeout_graceful_shutdown=20,
        # The supervisor kills a worker that does not answer in time. On a fraction of a core a worker
        # takes long to start, and uvicorn's own 5 s would kill it again and again.
        timeout_worker_healthcheck=30,
    )
    server = uvicorn.Server(config)
    if reload:
        ChangeReload(config, target=server.run, sockets=[listener]).run()
    elif settings.web_concurrency > 1:
        Supervisor(config, [listener]).run()
    else:
        server.run([listener])
        if not server.started:
            sys.exit(3)  # the app could not start; the log says why


if __name__ == "__main__":
    with suppress(KeyboardInterrupt):  # Ctrl-C during the start
        serve(reload="--reload" in sys.argv[1:])
