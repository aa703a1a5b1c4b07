"""Runs the service: `python -m nutshell`."""

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
# Folders that --reload does not watch.
NOT_SERVED = [
    ROOT / name
    for name in (
        ".venv",
        "lab",
        "nutshell/live/tests",
        "nutshell/scaffold",
        "nutshell/tests",
        "tests",
    )
]

BACKLOG = 2048  # connections that wait to be accepted


def prepare_sqlite(*, reload: bool) -> None:
    """Migrates SQLite. Ends the process with one line if that fails.

    Under --reload only a new file is migrated, so that you can read a new migration before it is applied.
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
    """Opens the port, for IPv4 and IPv6 unless a host is given. Some private networks have only IPv6.

    Ends the process with one line if that fails.
    """
    options: dict[str, Any] = {"backlog": BACKLOG}
    if not host and socket.has_dualstack_ipv6():
        options |= {"family": socket.AF_INET6, "dualstack_ipv6": True}
    try:
        listener = socket.create_server((host, settings.port), **options)
    except OSError as error:
        sys.exit(f"PORT: {settings.port}: {os.strerror(error.errno or 0)}. Set PORT to another.")
    listener.set_inheritable(True)  # the workers inherit it
    return listener


def follow_terminal() -> None:
    """Stops the process when its terminal is closed: make waits for it, but does not forward the signal."""

    def wait() -> None:
        terminal = select.poll()
        terminal.register(sys.stdin, 0)  # poll always reports hang-ups
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
        ws="none",  # otherwise packages such as fastapi-cli would enable them
        reload=reload,
        reload_excludes=[str(path) for path in NOT_SERVED if path.is_dir()] if reload else None,
        workers=settings.web_concurrency,
        log_config=LOGGING,
        access_log=False,  # middleware.py writes it
        server_header=False,
        # Routers and load balancers have no fixed addresses, and access.py trusts no client address.
        forwarded_allow_ips=settings.forwarded_allow_ips,
        # Outlast the 90 s of routers: one that reuses a connection while it is being closed answers 502.
        timeout_keep_alive=95,
        timeout_graceful_shutdown=20,
        # The supervisor kills unresponsive workers. On a fraction of a core, startup takes longer than
        # uvicorn's default of 5 s, so workers would be killed again and again.
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
            sys.exit(3)  # startup failed; the log has the reason


if __name__ == "__main__":
    with suppress(KeyboardInterrupt):  # Ctrl-C during the start
        serve(reload="--reload" in sys.argv[1:])
