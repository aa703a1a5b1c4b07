"""The process: how the service starts, logs and stops. `python -m nutshell` is all a PaaS runs."""

import logging.config
import os
import sys
from contextlib import suppress
from typing import Any

import uvicorn
from sqlalchemy import URL
from uvicorn.supervisors import Multiprocess

from nutshell.settings import settings

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


def describe() -> str:
    """The first line of the log: which database, and who may call."""
    url = without_secrets(settings.database_url)
    if settings.database_url.get_backend_name() == "sqlite":
        url += " (a PaaS discards this file; set DATABASE_URL)"
    if settings.database_read_url is not None:
        url += f", reads from {without_secrets(settings.database_read_url)}"
    access = "callers with the token" if settings.api_token else "local callers only, no API_TOKEN"
    return f"Database {url}. Open to {access}."


class Supervisor(Multiprocess):
    """uvicorn's supervisor of several workers, but it closes the port at once when it stops.

    New callers are then refused while the workers finish their requests. Otherwise they would wait
    for an answer that never comes.
    """

    def terminate_all(self) -> None:
        for listener in self.sockets:
            listener.close()
        super().terminate_all()


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
        # Routers and load balancers have no fixed address, and access.py trusts no client's.
        "forwarded_allow_ips": os.environ.get("FORWARDED_ALLOW_IPS", "*"),
        # A router that reuses a connection just as it is closed answers 502: outlast its 90 s.
        "timeout_keep_alive": 95,
        "timeout_graceful_shutdown": 20,
    }
    if settings.web_concurrency > 1 and not reload:
        config = uvicorn.Config(**options)
        Supervisor(config, [config.bind_socket()]).run()
    else:
        with suppress(KeyboardInterrupt):  # Ctrl-C during the start
            uvicorn.run(**options)


if __name__ == "__main__":
    serve(reload="--reload" in sys.argv[1:])
