"""Every failure turned into one problem document (RFC 9457)."""

import json
import logging
import re
from collections.abc import Mapping
from http import HTTPStatus
from typing import Any

from fastapi import Request, Response
from fastapi.exceptions import RequestValidationError, ResponseValidationError
from pydantic import BaseModel
from sqlalchemy.exc import DBAPIError, IntegrityError, NoResultFound, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.orm.exc import StaleDataError
from sqlmodel import SQLModel
from starlette.exceptions import HTTPException
from starlette.routing import Match

from nutshell import health
from nutshell.health import is_wrong_schema
from nutshell.log import explain

logger = logging.getLogger(__name__)

MEDIA_TYPE = "application/problem+json"
MAX_ERRORS = 100  # in one answer


class InputError(BaseModel):
    loc: list[str | int]
    msg: str
    type: str


class Problem(BaseModel):
    """What went wrong. `errors` says where in the input, and never repeats the input."""

    type: str = "about:blank"
    title: str
    status: int
    detail: str
    errors: list[InputError] | None = None


def problem(
    status: int,
    detail: str,
    errors: list[InputError] | None = None,
    headers: Mapping[str, str] | None = None,
) -> Response:
    title = next((known.phrase for known in HTTPStatus if known == status), "Error")
    document = Problem(
        title=title,
        status=status,
        detail=detail,
        errors=errors,
    ).model_dump(exclude_none=True)
    # json.dumps writes ASCII. The name of an unknown field can be a lone surrogate, which UTF-8
    # cannot express.
    return Response(json.dumps(document), status, headers, MEDIA_TYPE)


def failure() -> Response:
    """The answer to a defect. The log has the rest."""
    return problem(500, "The service failed here; its log says how.")


async def http_error(request: Request, exc: HTTPException) -> Response:
    headers = dict(exc.headers or {})
    if exc.status_code == 405:
        headers["Allow"] = ", ".join(allowed_methods(request))
    if exc.status_code == 503:
        headers.setdefault("Retry-After", "1")
    # FastAPI lets the detail be anything that JSON can express.
    detail = exc.detail if isinstance(exc.detail, str) else json.dumps(exc.detail)
    return problem(exc.status_code, detail, headers=headers)


def allowed_methods(request: Request) -> list[str]:
    """Every method of the path. Starlette names only those of the first route that has it."""
    methods = [
        method
        for method in ("GET", "POST", "PATCH", "DELETE")
        for route in request.app.routes
        if route.matches(dict(request.scope, method=method))[0] is Match.FULL
    ]
    return ["HEAD", *methods] if "GET" in methods else methods


async def invalid_input(request: Request, exc: RequestValidationError) -> Response:
    found = exc.errors()
    errors = [
        InputError(loc=list(error["loc"]), msg=error["msg"], type=error["type"])
        for error in found[:MAX_ERRORS]
    ]
    detail = "The input was refused; `errors` says where and why."
    if len(found) > MAX_ERRORS:
        detail += f" There are {len(found)}; these are the first {MAX_ERRORS}."
    return problem(422, detail, errors)


async def invalid_answer(request: Request, exc: ResponseValidationError) -> Response:
    """A route's answer does not fit its response model. The log must not repeat the rows."""
    for error in exc.errors():
        logger.error("the answer does not fit its schema: %s: %s", error["loc"], error["msg"])
    return failure()


async def not_found(request: Request, exc: NoResultFound) -> Response:
    """`session.get_one` found no row."""
    return problem(404, "There is no row with this id.")


async def stale(request: Request, exc: StaleDataError) -> Response:
    """A flush found that another request has deleted the row since this one read it."""
    return problem(409, "Another request was first; read the row again.")


MESSAGES = {
    "unique": "another row has this value already",
    "foreign_key": "this would leave a reference to no row",
}


async def conflict(request: Request, exc: IntegrityError) -> Response:
    """A unique or foreign-key constraint said no. Any other was the schemas' business: 500."""
    kind, fields, value = violation(exc)
    if kind is None:
        raise exc
    if request.method == "DELETE":
        return problem(409, "Rows that refer to this one do not allow this.")
    errors = [
        InputError(loc=loc, msg=MESSAGES[kind], type=kind)
        for field in fields
        for loc in await locate(request, field, value)
    ]
    return problem(409, "The rows that exist do not allow this; `errors` says where.", errors)


async def locate(request: Request, field: str, value: str | None) -> list[list[str | int]]:
    """Where in the body the field is. In a list: in each row that has the value, if it is known."""
    try:
        body = await request.json()
    except ValueError:  # a route without a body, that writes all the same
        return [["body", field]]
    entries = body if isinstance(body, list) else []
    found: list[list[str | int]] = [
        ["body", number, field]
        for number, entry in enumerate(entries)
        if isinstance(entry, dict) and str(entry.get(field)) == value
    ]
    return found or [["body", field]]


def violation(exc: IntegrityError) -> tuple[str | None, list[str], str | None]:
    """The kind of the constraint that said no, its columns, and the value refused if known.

    There is no kind for a constraint that the schemas should have kept, such as NOT NULL.
    """
    error: Any = exc.orig
    tables = SQLModel.metadata.tables
    if hasattr(error, "sqlstate"):  # PostgreSQL names the constraint, Citus only in the message
        # 23001: a reference declared with ON DELETE RESTRICT
        kinds = {"23505": "unique", "23503": "foreign_key", "23001": "foreign_key"}
        kind = kinds.get(error.sqlstate)
        message = str(error.diag.message_primary)
        name = error.diag.constraint_name or "".join(re.findall(r'constraint "(\w+?)"', message))
        names = {name, re.sub(r"_\d+$", "", name)}  # Citus appends the number of a shard
        constraints: Any = [c for table in tables.values() for c in table.constraints]
        columns = [column.name for c in constraints if c.name in names for column in c.columns]
        value = re.search(r"\)=\((.*?)\)", str(error.diag.message_detail))
        return kind, columns, value[1] if value else None
    if error.sqlite_errorname == "SQLITE_CONSTRAINT_UNIQUE":
        return "unique", re.findall(r"\w+\.(\w+)", str(error)), None
    if str(error) == "FOREIGN KEY constraint failed":  # RESTRICT has another code
        # SQLite does not say which one. We name every reference of the table that was written to.
        written = re.match(r"(?:INSERT INTO|UPDATE) (\w+)", exc.statement or "")
        keys = tables[written[1]].foreign_keys if written and written[1] in tables else ()
        return "foreign_key", sorted(key.parent.name for key in keys), None
    return None, [], None


async def database_error(request: Request, exc: DBAPIError) -> Response:
    """503 when the database is away, full, read-only or not migrated. Else it is a defect: 500."""
    if is_wrong_schema(exc):
        if reason := await health.prober.find_reason():
            return unavailable(reason)
        logger.error("The database's schema differs from the models: is a migration missing?")
        raise exc
    if isinstance(exc, OperationalError) or exc.connection_invalidated or is_internal(exc):
        return unavailable(f"{type(exc).__name__}: {explain(exc)}")
    raise exc


def is_internal(exc: DBAPIError) -> bool:
    """The server's own failure. Citus reports it when it loses a worker at a bad moment."""
    return getattr(exc.orig, "sqlstate", None) == "XX000"


async def pool_exhausted(request: Request, exc: PoolTimeout) -> Response:
    return unavailable(f"{type(exc).__name__}: {explain(exc)}")


def unavailable(reason: str) -> Response:
    logger.warning(reason)
    detail = "The database does not answer just now; try again."
    return problem(503, detail, headers={"Retry-After": "1"})


HANDLERS: dict[int | type[Exception], Any] = {
    HTTPException: http_error,
    RequestValidationError: invalid_input,
    ResponseValidationError: invalid_answer,
    NoResultFound: not_found,
    StaleDataError: stale,
    IntegrityError: conflict,
    DBAPIError: database_error,
    PoolTimeout: pool_exhausted,
}
