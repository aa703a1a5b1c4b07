"""The log: a line on stdout for each event, with the request id and without e-mail addresses."""

import json
import logging
import logging.config
import re
from contextvars import ContextVar
from typing import Any

from nutshell.settings import settings, without_secrets

# The id of the current request, which is in its response and in each of its log lines.
request_id: ContextVar[str] = ContextVar("request_id", default="-")

# Characters that an address may contain. Searching word by word takes linear time.
WORD = re.compile(r"[^\s'\"()=/&]+")


def hide_address(word: re.Match[str]) -> str:
    return "(e-mail)" if "@" in word[0] or "%40" in word[0] else word[0]


def hide_addresses(line: str) -> str:
    return WORD.sub(hide_address, line) if "@" in line or "%40" in line else line


class Formatter(logging.Formatter):
    """Adds the request id and hides e-mail addresses."""

    def format(self, record: logging.LogRecord) -> str:
        record.request_id = request_id.get()
        return hide_addresses(super().format(record))


class JsonFormatter(Formatter):
    """Writes JSON objects. Cloud Run reads `severity`, most other platforms `level`."""

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, Any] = {
            "time": self.formatTime(record, "%Y-%m-%dT%H:%M:%S%z"),
            "level": record.levelname.lower(),
            "severity": record.levelname,
            "logger": record.name,
            "request_id": request_id.get(),
            "message": hide_addresses(record.getMessage()),
        }
        if hasattr(record, "call"):  # of middleware.py
            method, path, status, took = record.call
            line |= {"method": method, "path": hide_addresses(path), "status": status}
            line["ms"] = round(took, 1)
        if record.exc_info:
            line["exception"] = hide_addresses(self.formatException(record.exc_info))
        return json.dumps(line)


LOGGING: dict[str, Any] = {
    "version": 1,
    "disable_existing_loggers": False,
    "formatters": {
        "text": {
            "()": Formatter,
            "format": "%(asctime)s %(levelname)s %(request_id)s %(message)s",
        },
        "json": {"()": JsonFormatter},
    },
    "handlers": {
        "stdout": {
            "class": "logging.StreamHandler",
            "stream": "ext://sys.stdout",
            "formatter": settings.log_format,
        },
    },
    "root": {"handlers": ["stdout"], "level": "INFO"},
    "loggers": {
        "alembic.runtime.plugins": {"level": "WARNING"},
        "watchfiles": {"level": "WARNING"},  # it would log every write to the database file
        # Other servers have already configured these.
        "uvicorn": {"handlers": [], "propagate": True},
        "uvicorn.error": {"handlers": [], "propagate": True},
        "uvicorn.access": {"handlers": [], "propagate": False},  # middleware.py has a better line
    },
}


def set_up_log() -> None:
    logging.config.dictConfig(LOGGING)


def describe_service(*, reload: bool = False) -> str:
    """Returns the first line of the log."""
    url = without_secrets(settings.database_url)
    if settings.database_url.get_backend_name() == "sqlite" and not reload:
        url += " (a PaaS discards this file: set DATABASE_URL)"
    if settings.database_read_url is not None:
        url += f", reads from {without_secrets(settings.database_read_url)}"
    return f"Database {url}"


# The messages of PostgreSQL and PgBouncer. Before a connection exists, the driver has no error code.
FULL = re.compile("too many (?:clients|connections)|connection slots|no more connections")


def explain(error: BaseException) -> str:
    """Returns the message of the database or its driver in one line, without the statement."""
    cause = " ".join(str(getattr(error, "orig", None) or error).split())
    if FULL.search(cause):
        wanted = 2 * settings.pool_size + 1
        cause = (
            f"The database refuses more connections. Each process opens up to {wanted}"
            f" (POOL_SIZE={settings.pool_size}), and there are {settings.web_concurrency}. ({cause})"
        )
    return cause
