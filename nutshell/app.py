"""`create_app`: an app with everything except its resources."""

import asyncio
import gc
import logging
import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib import import_module
from typing import Any

from fastapi import FastAPI, HTTPException, Request
from fastapi.middleware import Middleware
from fastapi.responses import RedirectResponse

from nutshell import database, health
from nutshell.access import SECURITY_SCHEMES, Check, check_access, describe_access
from nutshell.docs import add_docs
from nutshell.errors import HANDLERS
from nutshell.idempotency import purge_old_keys
from nutshell.log import describe_service, set_up_log
from nutshell.middleware import Edge
from nutshell.openapi.document import DocumentedApp, documented
from nutshell.routes import PlainRoute, ResourceRoute
from nutshell.settings import LIVE_VIEW, settings

logger = logging.getLogger(__name__)


def create_app(
    title: str,
    summary: str,
    *,
    check: Check = check_access,
    security_schemes: dict[str, Any] = SECURITY_SCHEMES,
    **options: Any,
) -> FastAPI:
    """Creates the app, with health checks, documentation, error handlers, middleware and lifespan.

    `check` decides who may call, in place of the token. It is called with each Request, before its body is
    read, and raises HTTPException(401) or (403). What it returns is handed to routes by `get_caller`: the
    caller's id, a string, or an object whose `id` never changes, because an `Idempotency-Key` belongs to
    its caller. It returns None if callers cannot be told apart. `security_schemes` are those of the OpenAPI
    document, by name.

    `options` are FastAPI's own, such as `version` and `license_info`. Routes added to the app are resource
    routes: see ResourceRoute.
    """
    app = DocumentedApp(
        title=title,
        summary=summary,
        lifespan=lifespan,
        exception_handlers=HANDLERS,
        # Operation ids, and so the methods of generated clients, are the function names.
        generate_unique_id_function=lambda route: route.name,
        middleware=[Middleware(Edge)],
        # Logs go to stdout. Exception messages may contain callers' data.
        telemetry={"logs": False},
        redirect_slashes=False,  # redirects would use the caller's `Host`
        docs_url=None,  # see docs.py
        redoc_url=None,
        swagger_ui_oauth2_redirect_url=None,
        **options,
    )
    app.security_schemes = security_schemes
    app.state.check = check
    app.router.route_class = PlainRoute
    open_to_all: dict[str, Any] = {"tags": ["health"], "openapi_extra": {"security": []}}
    app.get("/healthz", **open_to_all)(health.read_health)
    app.get("/readyz", responses=documented(503), **open_to_all)(health.read_readiness)
    add_docs(app)
    app.add_api_route("/", redirect_to_docs, include_in_schema=False)
    if settings.trace:
        import_module("nutshell.live.view").watch(app)  # the folder may be deleted
    elif LIVE_VIEW.exists():
        app.add_api_route("/trace", explain_trace, include_in_schema=False)
    app.router.route_class = ResourceRoute
    return app


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    introduce()
    logger.info(describe_access(app.state.check))
    if settings.database_url.get_backend_name() == "sqlite":
        # Imported here, because it imports Alembic, which PostgreSQL does not need.
        from nutshell.migrate import migrate_sqlite

        await asyncio.to_thread(migrate_sqlite, "a new file")
    trace_statements()
    let_interrupts_finish_requests()
    follow_parent()
    spare_the_garbage_collector()
    chores = [
        asyncio.create_task(health.prober.find_reason()),
        asyncio.create_task(purge_old_keys()),
    ]
    yield
    for chore in chores:
        chore.cancel()
    await asyncio.wait(chores)  # each may still hold a connection
    for engine in (database.reader.engine, database.writer.engine, health.prober.engine):
        await engine.dispose()


def introduce() -> None:
    """Sets up the log, and describes the service unless `python -m nutshell` has done so."""
    set_up_log()
    if "nutshell.protocol" not in sys.modules:
        logger.info(describe_service())
        logger.warning(
            "Not started by python -m nutshell: request heads have no limits and no deadline, and idle"
            " connections may be closed while a router reuses them."
        )


def trace_statements() -> None:
    """Adds SQL statements to FastAPI's OpenTelemetry traces, if the environment enables these."""
    if os.environ.get("FASTAPI_OTEL_AUTO_CONFIGURE", "").lower() == "true":
        try:
            from opentelemetry.instrumentation.sqlalchemy import SQLAlchemyInstrumentor
        except ImportError:
            logger.warning(
                "Traces contain no statements: opentelemetry-instrumentation-sqlalchemy is missing."
            )
            return
        # It does not list SQLAlchemy 2.1 as supported yet; test_telemetry.py shows that it works.
        SQLAlchemyInstrumentor().instrument(
            skip_dep_check=True,
            engines=[pool.engine.sync_engine for pool in (database.reader, database.writer)],
        )


def let_interrupts_finish_requests() -> None:
    # On a second SIGINT, uvicorn aborts the requests in progress. On a second SIGTERM it does not.
    if callable(stop := signal.getsignal(signal.SIGTERM)):
        signal.signal(signal.SIGINT, lambda _, frame: stop(signal.SIGTERM, frame))


def follow_parent() -> None:
    """Stops a worker whose supervisor was killed. Otherwise it would keep the port."""
    parent = multiprocessing.parent_process()
    if parent is None:
        return

    def wait() -> None:
        parent.join()
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=wait, daemon=True).start()


def spare_the_garbage_collector() -> None:
    # Everything loaded by now stays alive, and requests create few reference cycles, so the collector
    # can run less often. lab/bench/results.md has the gain.
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000)


async def explain_trace() -> None:
    raise HTTPException(404, "Set TRACE=1 to turn on the live view, as `make run` does.")


async def redirect_to_docs(request: Request) -> RedirectResponse:
    return RedirectResponse(f"{request.scope['root_path']}/docs")
