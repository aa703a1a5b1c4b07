"""The process: how the service starts, logs and stops. `python serve.py` is all a PaaS runs."""

import logging.config
import os
import re
import sys
from typing import Any

import uvicorn

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
    # It tells of every X-Request-ID that it replaces, which any caller can have it do.
    "loggers": {"asgi_correlation_id": {"level": "ERROR"}},
}


def describe() -> str:
    """Which database, and who may call: the first line of the log."""
    url = settings.database_url.render_as_string(hide_password=True)
    if settings.database_url.get_backend_name() == "sqlite":
        url += " (a PaaS discards this file; set DATABASE_URL)"
    if settings.database_read_url is not None:
        url += f", reads from {settings.database_read_url.render_as_string(hide_password=True)}"
    access = "callers with the token" if settings.api_token else "local callers only, no API_TOKEN"
    return f"Database {url}. Open to {access}."


def serve(*, reload: bool) -> None:
    logging.config.dictConfig(LOGGING)
    logging.getLogger(__name__).info(describe())
    uvicorn.run(
        "main:app",
        host="127.0.0.1" if reload else "0.0.0.0",  # noqa: S104 (a PaaS calls from outside)
        port=settings.port,
        reload=reload,
        workers=settings.web_concurrency,
        log_config=LOGGING,
        access_log=False,  # see middleware.py
        server_header=False,
        # Routers and load balancers have no fixed address. Nothing here trusts a client's.
        forwarded_allow_ips=os.environ.get("FORWARDED_ALLOW_IPS", "*"),
        # A router that reuses a connection just when it is closed answers 502: outlast its 90 s.
        timeout_keep_alive=95,
        timeout_graceful_shutdown=20,
    )


if __name__ == "__main__":
    serve(reload="--reload" in sys.argv[1:])
