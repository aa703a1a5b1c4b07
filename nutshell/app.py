"""`create_app`: an app with everything but its resources."""

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
from nutshell.docs import add_docs
from nutshell.errors import HANDLERS
from nutshell.idempotency import purge_old_keys
from nutshell.log import describe_service, set_up_log
from nutshell.middleware import Edge
from nutshell.openapi import DocumentedApp, documented
from nutshell.routes import ResourceRoute
from nutshell.settings import LIVE_VIEW, settings

logger = logging.getLogger(__name__)


def create_app(title: str, summary: str, **options: Any) -> FastAPI:
    """Makes the app: health, documentation, errors, middleware, and the start and the end.

    `options` are FastAPI's own, such as `version` and `license_info`.
    Routes that are added to it belong to resources: see ResourceRoute.
    """
    app = DocumentedApp(
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
    if settings.database_url.get_backend_name() == "sqlite":
        from nutshell.migrate import migrate_sqlite  # and Alembic: see health.py

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
    await asyncio.wait(chores)  # each may still have a connection to give back
    for engine in (database.reader.engine, database.writer.engine, health.prober.engine):
        await engine.dispose()


def introduce() -> None:
    """Sets up the log, and tells what `python -m nutshell` has told already if it serves."""
    set_up_log()
    if "nutshell.protocol" not in sys.modules:
        logger.info(describe_service())
        logger.warning(
            "Another server than python -m nutshell: heads of requests have neither its limits nor"
            " its deadline, and idle connections may close under a router that reuses them."
        )


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
    # not look so often: lab/bench/results.md has the gain.
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000)


async def explain_trace() -> None:
    raise HTTPException(404, "Set TRACE=1 to turn on the live view, as `make run` does.")


async def redirect_to_docs(request: Request) -> RedirectResponse:
    return RedirectResponse(f"{request.scope['root_path']}/docs")
