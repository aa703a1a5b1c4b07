"""`create_app`: an app with everything but its resources."""

import asyncio
import gc
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Literal

from alembic import command
from alembic.config import Config
from alembic.script import ScriptDirectory
from fastapi import FastAPI, HTTPException
from fastapi.middleware import Middleware
from fastapi.responses import RedirectResponse
from fastapi_swagger import patch_fastapi  # type: ignore[import-untyped]
from pydantic import BaseModel
from sqlalchemy import text
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncConnection

from nutshell import database
from nutshell.access import SECURITY_SCHEMES, is_local
from nutshell.engines import make_engine
from nutshell.errors import HANDLERS, describe_problems, documented
from nutshell.middleware import Edge
from nutshell.routes import ResourceRoute
from nutshell.settings import settings

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
        return self.openapi_schema or {}


def create_app(title: str, summary: str) -> FastAPI:
    """Makes the app: health, documentation, errors, middleware, and the start and the end.

    Routes that are added to it belong to resources: see ResourceRoute.
    """
    app = Nutshell(
        title=title,
        summary=summary,
        lifespan=lifespan,
        exception_handlers=HANDLERS,
        # Operations are named as their functions: generated clients get `list_users()`.
        generate_unique_id_function=lambda route: route.name,
        middleware=[Middleware(Edge)],
        docs_url=None,
        redoc_url=None,
        swagger_ui_oauth2_redirect_url=None,
    )
    app.get("/healthz", tags=["health"])(read_health)
    app.get("/readyz", tags=["health"], responses=documented(503))(read_readiness)
    # /docs with assets of its own: FastAPI's come from the internet.
    patch_fastapi(app, redirect_from_root_to_docs=False)
    app.add_api_route("/", redirect_to_docs, include_in_schema=False)
    if settings.trace:
        from nutshell import live

        live.watch(app, is_local)
    app.router.route_class = ResourceRoute
    return app


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    # A PaaS throws away the disk of its release step, so SQLite's file is migrated here. A server
    # is migrated in the release step alone: web processes must not race to change a schema.
    if settings.database_url.get_backend_name() == "sqlite":
        await asyncio.to_thread(command.upgrade, MIGRATIONS, "head")
    let_interrupts_finish_requests()
    spare_the_garbage_collector()
    yield
    for engine in (database.reader.engine, database.writer.engine, prober):
        await engine.dispose()


def let_interrupts_finish_requests() -> None:
    # To uvicorn a second SIGINT means: drop the requests in flight. A second SIGTERM does not.
    if callable(stop := signal.getsignal(signal.SIGTERM)):
        signal.signal(signal.SIGINT, lambda _, frame: stop(signal.SIGTERM, frame))


def spare_the_garbage_collector() -> None:
    # What is loaded by now stays, and hardly a request leaves cycles behind. So the collector need
    # not look so often: bench/results.md has the gain.
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000)


REVISION = text("SELECT version_num FROM alembic_version")
# A connection of its own: busy pools say nothing of the database.
prober = make_engine(settings.database_url, 1, autocommit=True)


async def is_read_only(connection: AsyncConnection) -> bool:
    """Whether this is a standby, or a primary that refuses to write."""
    if connection.dialect.name != "postgresql":
        return False
    return bool(await connection.scalar(text("SHOW transaction_read_only")) == "on")


class Health(BaseModel):
    status: Literal["ok"] = "ok"


async def read_health() -> Health:
    """Tells that the process is alive."""
    return Health()


async def read_readiness() -> Health:
    """Tells whether the database answers, takes writes, and has the schema of this service."""
    try:
        async with prober.connect() as connection:
            (revision,) = (await connection.execute(REVISION)).one()
            read_only = await is_read_only(connection)
            if read_only:
                await connection.invalidate()  # the next may reach a server that takes writes
    except SQLAlchemyError as error:
        raise HTTPException(503, "The database does not answer, or has no schema.") from error
    if read_only:
        raise HTTPException(503, "The database takes no writes.")
    if revision != HEAD:
        raise HTTPException(503, f"The schema is at {revision}, the service wants {HEAD}.")
    return Health()


async def redirect_to_docs() -> RedirectResponse:
    return RedirectResponse("/docs")
