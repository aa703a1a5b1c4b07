"""The process: how the service starts, logs and stops. `python -m nutshell` is all a PaaS runs."""

import logging.config
import os
import select
import signal
import socket
import sqlite3
import sys
import threading
from contextlib import suppress
from pathlib import Path
from typing import Any

import uvicorn
from alembic.util import CommandError
from sqlalchemy import URL
from sqlalchemy.exc import DBAPIError
from uvicorn.supervisors import ChangeReload, Multiprocess

from nutshell.app import Server, log_address, migrate_sqlite
from nutshell.protocol import Protocol
from nutshell.settings import settings

logger = logging.getLogger("nutshell")

ROOT = Path(__file__).parents[1]
# --reload does not watch these.
NOT_SERVED = [ROOT / name for name in (".venv", "bench", "nutshell/tests", "tests")]

BACKLOG = 2048  # callers that connect in the same moment

LOGGING: dict[str, Any] = {
    "version": 1,
    "disable_existing_loggers": False,
    "formatters": {
        "line": {
            "()": "nutshell.middleware.Formatter",
            "format": "%(asctime)s %(levelname)s %(request_id)s %(message)s",
        },
    },
    "handlers": {
        "stdout": {
            "class": "logging.StreamHandler",
            "stream": "ext://sys.stdout",
            "formatter": "line",
        },
    },
    "root": {"handlers": ["stdout"], "level": "INFO"},
    "loggers": {
        "alembic.runtime.plugins": {"level": "WARNING"},
        "watchfiles": {"level": "WARNING"},  # counts every write to the database file
    },
}


def without_secrets(url: URL) -> str:
    """A password can also be among the parameters, so only harmless ones are shown."""
    harmless = {"host", "port", "sslmode", "target_session_attrs"}
    query = {name: value for name, value in url.query.items() if name in harmless}
    return URL.create(
        url.get_backend_name(), host=url.host, port=url.port, database=url.database, query=query
    ).render_as_string()


def describe(*, reload: bool = False) -> str:
    """The first line of the log: which database, and who may call."""
    url = without_secrets(settings.database_url)
    if settings.database_url.get_backend_name() == "sqlite" and not reload:
        url += " (a PaaS discards this file; set DATABASE_URL)"
    if settings.database_read_url is not None:
        url += f", reads from {without_secrets(settings.database_read_url)}"
    if settings.api_token:
        access = "Open to callers with the token."
    elif settings.open_local:
        access = "Open to local callers only, no API_TOKEN."
    else:
        access = "Closed, but for health and documentation: set API_TOKEN."
    return f"Database {url}. {access}"


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


def follow_terminal() -> None:
    """Stops the process when its terminal is closed: make then waits for it, but passes no signal on."""

    def wait() -> None:
        terminal = select.poll()
        terminal.register(sys.stdin, 0)  # poll always reports a hang-up
        if any(event & select.POLLHUP for _, event in terminal.poll()):
            os.kill(os.getpid(), signal.SIGTERM)

    if hasattr(select, "poll") and sys.stdin.isatty():
        threading.Thread(target=wait, daemon=True).start()


def serve(*, reload: bool) -> None:
    logging.config.dictConfig(LOGGING)
    logger.info(describe(reload=reload))
    prepare_sqlite(reload=reload)
    listener = listen("127.0.0.1" if reload else "")
    config = uvicorn.Config(
        "main:app",
        http=Protocol,
        ws="none",  # or what is installed beside it, such as fastapi-cli, would bring them
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
    server = Server(config)
    if reload:
        follow_terminal()
        ChangeReload(config, target=server.run, sockets=[listener]).run()
    elif settings.web_concurrency > 1:
        log_address()
        Supervisor(config, [listener]).run()
    else:
        server.run([listener])
        if not server.started:
            sys.exit(3)  # the app could not start; the log says why


if __name__ == "__main__":
    with suppress(KeyboardInterrupt):  # Ctrl-C during the start
        serve(reload="--reload" in sys.argv[1:])
