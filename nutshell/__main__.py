"""The process: how the service starts, logs and stops. `python -m nutshell` is all a PaaS runs."""

import logging
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
from sqlalchemy.exc import DBAPIError
from uvicorn.supervisors import ChangeReload

from nutshell.log import LOGGING, describe_service, set_up_log
from nutshell.protocol import Protocol
from nutshell.server import Server, Supervisor, log_address
from nutshell.settings import settings, without_secrets

logger = logging.getLogger("nutshell")

ROOT = Path(__file__).parents[1]
# --reload does not watch these.
NOT_SERVED = [
    ROOT / name for name in (".venv", "bench", "nutshell/live/tests", "nutshell/tests", "tests")
]

BACKLOG = 2048  # callers that connect in the same moment


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
    set_up_log()
    logger.info(describe_service(reload=reload))
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
