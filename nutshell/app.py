"""`create_app`: an app with everything but its resources."""

import asyncio
import gc
import logging
import multiprocessing
import os
import signal
import socket
import threading
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Literal

import uvicorn
from alembic import command
from alembic.config import Config
from alembic.script import ScriptDirectory
from fastapi import FastAPI, HTTPException, Response
from fastapi.middleware import Middleware
from fastapi.responses import RedirectResponse
from pydantic import BaseModel
from sqlalchemy import URL, NullPool, create_engine, inspect, text
from sqlalchemy.exc import SQLAlchemyError

from nutshell import database
from nutshell.access import SECURITY_SCHEMES, check_trace
from nutshell.docs import add_docs
from nutshell.engines import make_engine
from nutshell.errors import HANDLERS, describe_problems, documented
from nutshell.idempotency import purge_old_keys
from nutshell.middleware import Edge
from nutshell.routes import ResourceRoute
from nutshell.settings import settings

logger = logging.getLogger(__name__)

MIGRATIONS = Config(Path(__file__).parents[1] / "alembic.ini")
HEAD = ScriptDirectory.from_config(MIGRATIONS).get_current_head()


class Nutshell(FastAPI):
    def openapi(self) -> dict[str, Any]:
        """FastAPI's document, with what its routes refer to."""
        if self.openapi_schema is None:
            document = super().openapi()
            components = document.setdefault("components", {})
            operations = [o for path in document["paths"].values() for o in path.values()]
            statuses = {s for o in operations for s in o["responses"] if s >= "400"}
            for kind, described in describe_problems(statuses).items():
                components[kind] = components.get(kind, {}) | described
            components["securitySchemes"] = SECURITY_SCHEMES
            tags = dict.fromkeys(tag for o in operations for tag in o["tags"])
            document["tags"] = [{"name": tag} for tag in tags]
            document.setdefault("servers", [{"url": "/"}])
            for operation in operations:
                add_examples(operation, components["schemas"])
        return self.openapi_schema or {}


def add_examples(operation: dict[str, Any], schemas: dict[str, Any]) -> None:
    """Puts the examples of the schemas where clients such as Postman look for them."""
    for parameter in operation.get("parameters", ()):
        if parameter["in"] == "path":
            parameter.setdefault("example", 1)
    if "requestBody" in operation:
        content = operation["requestBody"]["content"]["application/json"]
        several = content["schema"].get("type") == "array"
        reference = (content["schema"]["items"] if several else content["schema"]).get("$ref", "")
        schema = schemas.get(reference.rpartition("/")[2], {})
        fields = schema.get("properties", {}).items()
        body = {name: field["examples"][0] for name, field in fields if "examples" in field}
        body = schema.get("examples", [body])[0]
        content.setdefault("example", [body] if several else body)


def create_app(title: str, summary: str, **options: Any) -> FastAPI:
    """Makes the app: health, documentation, errors, middleware, and the start and the end.

    `options` are FastAPI's own, such as `version` and `license_info`.
    Routes that are added to it belong to resources: see ResourceRoute.
    """
    app = Nutshell(
        title=title,
        summary=summary,
        lifespan=lifespan,
        exception_handlers=HANDLERS,
        # Operations have the names of their functions, and so have those of generated clients.
        generate_unique_id_function=lambda route: route.name,
        middleware=[Middleware(Edge)],
        # The log is on stdout. The text of an exception may hold callers' data.
        telemetry={"logs": False},
        redirect_slashes=False,  # a redirect would go to whatever `Host` the caller names
        docs_url=None,  # see docs.py
        redoc_url=None,
        swagger_ui_oauth2_redirect_url=None,
        **options,
    )
    health: dict[str, Any] = {"tags": ["health"], "openapi_extra": {"security": []}}
    app.get("/healthz", **health)(read_health)
    app.get("/readyz", responses=documented(503), **health)(read_readiness)
    add_docs(app)
    app.add_api_route("/", redirect_to_docs, include_in_schema=False)
    if settings.trace:
        from nutshell import live

        live.watch(app, check_trace)
    else:
        app.add_api_route("/trace", explain_trace, include_in_schema=False)
    app.router.route_class = ResourceRoute
    return app


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    await asyncio.to_thread(migrate_sqlite, "a new file")
    trace_statements()
    let_interrupts_finish_requests()
    follow_parent()
    spare_the_garbage_collector()
    chores = [asyncio.create_task(report_readiness()), asyncio.create_task(purge_old_keys())]
    yield
    for chore in chores:
        chore.cancel()
    await asyncio.wait(chores)  # each may still have a connection to give back
    for engine in (database.reader.engine, database.writer.engine, prober.engine):
        await engine.dispose()


def migrate_sqlite(which: Literal["any file", "a new file"]) -> None:
    """Brings SQLite's tables to the newest schema. A PaaS throws away what its release step made.

    A server is migrated in the release step alone: web processes must not race to change a schema.
    """
    if settings.database_url.get_backend_name() != "sqlite":
        return
    if which == "a new file":
        engine = create_engine(settings.database_url, poolclass=NullPool)
        with engine.connect() as connection:
            if inspect(connection).has_table("alembic_version") and connection.scalar(REVISION):
                return
    command.upgrade(MIGRATIONS, "head")


def trace_statements() -> None:
    """Adds the statements to the traces that FastAPI sends when the environment asks for them."""
    if os.environ.get("FASTAPI_OTEL_AUTO_CONFIGURE", "").lower() == "true":
        try:
            from opentelemetry.instrumentation.sqlalchemy import SQLAlchemyInstrumentor
        except ImportError:
            logger.warning(
                "Traces have no statements: opentelemetry-instrumentation-sqlalchemy is missing."
            )
            return
        # It does not name SQLAlchemy 2.1 as supported yet: test_telemetry.py shows that it works.
        SQLAlchemyInstrumentor().instrument(
            skip_dep_check=True,
            engines=[pool.engine.sync_engine for pool in (database.reader, database.writer)],
        )


async def report_readiness() -> None:
    if reason := await prober.find_reason():
        logger.warning("Not ready: %s", reason)


class Server(uvicorn.Server):
    """uvicorn's server, but it says where it is as soon as it answers.

    It is not in __main__.py, where the process that --reload starts would not find it.
    """

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self.started:
            log_address()


def log_address() -> None:
    url = f"http://127.0.0.1:{settings.port}"
    view = f", live view {url}/trace" if settings.trace else ""
    logger.info("Listening on %s, documentation %s/docs%s", url, url, view)


def let_interrupts_finish_requests() -> None:
    # To uvicorn a second SIGINT means: drop the requests in flight. A second SIGTERM does not.
    if callable(stop := signal.getsignal(signal.SIGTERM)):
        signal.signal(signal.SIGINT, lambda _, frame: stop(signal.SIGTERM, frame))


def follow_parent() -> None:
    """Stops a worker whose supervisor was killed: it would hold the port, and nobody could stop it."""
    parent = multiprocessing.parent_process()
    if parent is None:
        return

    def wait() -> None:
        parent.join()
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=wait, daemon=True).start()


def spare_the_garbage_collector() -> None:
    # What is loaded by now stays, and hardly a request leaves cycles behind. So the collector need
    # not look so often: bench/results.md has the gain.
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000)


REVISION = text("SELECT version_num FROM alembic_version")
READ_ONLY = text("SHOW transaction_read_only")
FRESH = 1  # seconds


class Prober:
    """Asks the database whether it is as this service needs it, once a second however many ask.

    It has a connection of its own: that a pool is busy, or a table locked, says nothing of the
    database.
    """

    def __init__(self, url: URL) -> None:
        self.engine = make_engine(url, 1, autocommit=True)
        self.lock = asyncio.Lock()
        self.asked = float("-inf")
        self.reason: str | None = None

    async def find_reason(self) -> str | None:
        """Why the service is not ready, if it is not."""
        async with self.lock:
            if time.monotonic() > self.asked + FRESH:
                self.reason = await self.ask()
                self.asked = time.monotonic()
            return self.reason

    async def ask(self) -> str | None:
        try:
            async with self.engine.connect() as connection:
                revision = await connection.scalar(REVISION)
                postgresql = connection.dialect.name == "postgresql"
                if postgresql and await connection.scalar(READ_ONLY) == "on":
                    await connection.invalidate()  # the next may reach a server that takes writes
                    return "The database takes no writes."
        except SQLAlchemyError:
            return "The database does not answer, or has no schema."
        if revision != HEAD:
            return f"The schema is at {revision}, but {HEAD} is needed: run alembic upgrade head."
        return None


prober = Prober(settings.database_url)


NO_STORE = {"Cache-Control": "no-store"}  # some caches keep an answer that does not forbid it


class Health(BaseModel):
    status: Literal["ok"] = "ok"


async def read_health(response: Response) -> Health:
    """Tells that the process is alive."""
    response.headers.update(NO_STORE)
    return Health()


async def read_readiness(response: Response) -> Health:
    """Tells whether the database answers, takes writes, and has the schema of this service."""
    if reason := await prober.find_reason():
        raise HTTPException(503, reason, NO_STORE)
    response.headers.update(NO_STORE)
    return Health()


async def explain_trace() -> None:
    raise HTTPException(404, "Set TRACE=1 to turn on the live view, as `make run` does.")


async def redirect_to_docs() -> RedirectResponse:
    return RedirectResponse("/docs")
