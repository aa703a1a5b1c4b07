"""Every failure turned into one problem document (RFC 9457)."""

import json
import logging
import re
from collections.abc import Mapping
from http import HTTPStatus
from itertools import chain
from typing import Any

from fastapi import Request, Response
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel
from sqlalchemy.exc import DBAPIError, IntegrityError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlmodel import SQLModel
from starlette.exceptions import HTTPException
from starlette.routing import Match

logger = logging.getLogger(__name__)

MEDIA_TYPE = "application/problem+json"


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
    document = Problem(
        title=HTTPStatus(status).phrase, status=status, detail=detail, errors=errors
    ).model_dump(exclude_none=True)
    # json.dumps writes ASCII: the name of an unknown field can be a lone surrogate, which UTF-8
    # cannot write.
    return Response(json.dumps(document), status, headers, MEDIA_TYPE)


async def http_error(request: Request, exc: HTTPException) -> Response:
    if exc.status_code == 304:  # no error, and it has no body
        return Response(status_code=304, headers=exc.headers)
    headers = dict(exc.headers or {})
    if exc.status_code == 405:
        headers["Allow"] = ", ".join(allowed_methods(request))
    return problem(exc.status_code, exc.detail, headers=headers)


def allowed_methods(request: Request) -> list[str]:
    """Every method of the path; Starlette names those of the first route that has it."""
    methods = [
        method
        for method in ("GET", "POST", "PATCH", "DELETE")
        for route in request.app.routes
        if route.matches(dict(request.scope, method=method))[0] is Match.FULL
    ]
    return ["HEAD", *methods] if "GET" in methods else methods


async def invalid_input(request: Request, exc: RequestValidationError) -> Response:
    errors = [
        InputError(loc=list(error["loc"]), msg=error["msg"], type=error["type"])
        for error in exc.errors()
    ]
    return problem(422, "The input was refused; `errors` says where and why.", errors)


async def conflict(request: Request, exc: IntegrityError) -> Response:
    kind, fields = violation(exc)
    if kind is None:
        raise exc
    msg = {
        "unique": "another row has this value already",
        "foreign_key": "this would leave a reference to no row",
    }[kind]
    errors = [InputError(loc=["body", field], msg=msg, type=kind) for field in fields]
    return problem(409, "The rows that exist do not allow this; `errors` says where.", errors)


def violation(exc: IntegrityError) -> tuple[str | None, list[str]]:
    """The kind and the columns of the constraint that said no. No kind, when the schemas should
    have said it first: a NOT NULL that fails is a defect of ours."""
    tables = SQLModel.metadata.tables
    error: Any = exc.orig
    if hasattr(error, "sqlstate"):  # PostgreSQL: names the constraint
        kind = {"23505": "unique", "23503": "foreign_key"}.get(error.sqlstate)
        constraints: Any = tables[error.diag.table_name].constraints
        columns = (c.columns for c in constraints if c.name == error.diag.constraint_name)
        return kind, [column.name for column in chain(*columns)]
    if error.sqlite_errorname == "SQLITE_CONSTRAINT_UNIQUE":
        return "unique", re.findall(r"\w+\.(\w+)", str(error))
    if error.sqlite_errorname == "SQLITE_CONSTRAINT_FOREIGNKEY":
        # SQLite does not say which: we name every reference of the table that was written to.
        written = re.match(r"(?:INSERT INTO|UPDATE|DELETE FROM) (\w+)", exc.statement or "")
        keys = tables[written[1]].foreign_keys if written else ()
        return "foreign_key", [key.parent.name for key in keys]
    return None, []


async def unavailable(request: Request, exc: DBAPIError | PoolTimeout) -> Response:
    """503 when the database is away or every connection stayed busy; what else it says is ours."""
    if isinstance(exc, DBAPIError) and not isinstance(exc, OperationalError):
        raise exc
    logger.warning("%s: %s", type(exc).__name__, exc)
    detail = "The database does not answer just now; try again."
    return problem(503, detail, headers={"Retry-After": "1"})


HANDLERS: dict[int | type[Exception], Any] = {
    HTTPException: http_error,
    RequestValidationError: invalid_input,
    IntegrityError: conflict,
    DBAPIError: unavailable,
    PoolTimeout: unavailable,
}


def problems(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """The `responses` of a route: what the document says of its errors."""
    return {s: {"model": Problem, "description": HTTPStatus(s).phrase} for s in statuses}


def describe_problems(openapi: dict[str, Any]) -> dict[str, Any]:
    """FastAPI documents every model as application/json; says what the errors really are."""
    for path in openapi["paths"].values():
        for operation in path.values():
            for status, response in operation["responses"].items():
                if status >= "400" and "application/json" in response.get("content", {}):
                    response["content"][MEDIA_TYPE] = response["content"].pop("application/json")
    return openapi
