"""The process: how the service starts, logs and stops. `python serve.py` is all a PaaS runs."""

import logging.config
import os
import re
import sys
from contextlib import suppress
from socket import socket
from typing import Any

import uvicorn
from sqlalchemy import URL
from uvicorn.supervisors import Multiprocess

from settings import settings

# Who calls, and with what, is nobody's business who reads the log.
EMAIL = re.compile(r"[^\s'\"(=/]+(?:@|%40)[^\s'\")&/]+")


class Formatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        return EMAIL.sub("(e-mail)", super().format(record))


LOGGING: dict[str, Any] = {
    "version": 1,
    "disable_existing_loggers": False,
    "filters": {
        "id": {"()": "asgi_correlation_id.CorrelationIdFilter", "default_value": "-"},
    },
    "formatters": {
        "line": {
            "()": Formatter,
            "format": "%(asctime)s %(levelname)s %(correlation_id)s %(message)s",
        },
    },
    "handlers": {
        "stdout": {
            "class": "logging.StreamHandler",
            "stream": "ext://sys.stdout",
            "filters": ["id"],
            "formatter": "line",
        },
    },
    "root": {"handlers": ["stdout"], "level": "INFO"},
    "loggers": {
        # It tells of every X-Request-ID that it replaces, which any caller can have it do.
        "asgi_correlation_id": {"level": "ERROR"},
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


def describe() -> str:
    """Which database, and who may call: the first line of the log."""
    url = without_secrets(settings.database_url)
    if settings.database_url.get_backend_name() == "sqlite":
        url += " (a PaaS discards this file; set DATABASE_URL)"
    if settings.database_read_url is not None:
        url += f", reads from {without_secrets(settings.database_read_url)}"
    access = "callers with the token" if settings.api_token else "local callers only, no API_TOKEN"
    return f"Database {url}. Open to {access}."


class Supervisor(Multiprocess):
    """uvicorn's, but it lets go of the port at once: while workers finish their requests, new
    callers are refused, and do not wait for an answer that never comes."""

    def terminate_all(self) -> None:
        for listener in self.sockets:
            listener.close()
        super().terminate_all()


def listen(config: uvicorn.Config) -> list[socket]:
    """One port, and many sockets: uvloop takes one new connection from each per turn of its loop.

    The turns of a busy loop are long. With one socket the last of 256 callers who came at once waited
    four to six times as long as over a connection that was open already; with 16 about as long.
    """
    listener = config.bind_socket()
    more = 0 if sys.platform == "win32" else 15  # Windows has no uvloop
    return [listener, *(listener.dup() for _ in range(more))]


def serve(*, reload: bool) -> None:
    logging.config.dictConfig(LOGGING)
    logging.getLogger(__name__).info(describe())
    options: dict[str, Any] = {
        "app": "main:app",
        "host": "127.0.0.1" if reload else "0.0.0.0",  # noqa: S104 (a PaaS calls from outside)
        "port": settings.port,
        "reload": reload,
        "workers": settings.web_concurrency,
        "log_config": LOGGING,
        "access_log": False,  # middleware.py has a better one
        "server_header": False,
        # Routers and load balancers have no fixed address, and main.py trusts no client's.
        "forwarded_allow_ips": os.environ.get("FORWARDED_ALLOW_IPS", "*"),
        # A router that reuses a connection just as it is closed answers 502: outlast its 90 s.
        "timeout_keep_alive": 95,
        "timeout_graceful_shutdown": 20,
    }
    if reload:
        uvicorn.run(**options)
        return
    config = uvicorn.Config(**options)
    if settings.web_concurrency > 1:
        # One socket: with more, one worker more often takes all callers who come at once.
        Supervisor(config, [config.bind_socket()]).run()
    else:
        with suppress(KeyboardInterrupt):  # as uvicorn.run does: Ctrl-C during the start
            uvicorn.Server(config).run(listen(config))


if __name__ == "__main__":
    serve(reload="--reload" in sys.argv[1:])
