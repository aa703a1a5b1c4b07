"""Turns every failure into a problem document (RFC 9457)."""

import json
import logging
from collections.abc import Mapping, Sequence
from http import HTTPStatus
from typing import Any

from fastapi import HTTPException as RouteError
from fastapi import Request, Response
from fastapi.exceptions import RequestValidationError, ResponseValidationError
from pydantic import BaseModel
from sqlalchemy.exc import DBAPIError, IntegrityError, NoResultFound, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.orm.exc import StaleDataError
from starlette.exceptions import HTTPException
from starlette.routing import Match

from nutshell import health
from nutshell.constraints import find_places, find_violation
from nutshell.fields import NO_NUL
from nutshell.health import is_wrong_schema
from nutshell.log import explain

logger = logging.getLogger(__name__)

MEDIA_TYPE = "application/problem+json"
MAX_ERRORS = 100  # in one document

# The names of RFC 9110, which Python's are from 3.13 on.
PHRASES = {status.value: status.phrase for status in HTTPStatus}
PHRASES |= {413: "Content Too Large", 422: "Unprocessable Content"}

# What the patterns of fields mean.
PATTERNS = {
    NO_NUL: "the text contains a NUL character",
    "^id$": "this list can only be sorted by id",
}


class InputError(BaseModel):
    loc: list[str | int]
    msg: str
    type: str


class Problem(BaseModel):
    """Describes an error. `errors` locates it in the input, and never repeats the input."""

    type: str = "about:blank"
    title: str
    status: int
    detail: str
    errors: list[InputError] | None = None


class Refused(RouteError):  # noqa: N818 (it is no defect)
    """Raised by a route, or by what it calls, when a rule of its own forbids the request.

    `Refused(409, "this invoice was sent already")`: the row's state does not allow it.
    `Refused(422, "this is before the first day", loc=("body", "ends_on"))`: the input is wrong at this place.

    The caller gets the message as `detail`, and as an entry of `errors` if it has a place. `type` is for
    programs. The request is rolled back, and its `Idempotency-Key` stays free.
    """

    def __init__(
        self,
        status: int,
        message: str,
        *,
        loc: Sequence[str | int] = (),
        type: str = "refused",  # noqa: A002 (as in InputError)
    ) -> None:
        super().__init__(status, message)
        self.errors = [InputError(loc=list(loc), msg=message, type=type)] if loc else None


def problem(
    status: int,
    detail: str,
    errors: list[InputError] | None = None,
    headers: Mapping[str, str] | None = None,
) -> Response:
    document = Problem(
        title=PHRASES.get(status, "Error"),
        status=status,
        detail=detail,
        errors=errors,
    ).model_dump(exclude_none=True)
    # By default some caches keep a 404 for minutes.
    headers = {"Cache-Control": "no-store", **(headers or {})}
    # json.dumps writes ASCII: the name of an unknown field can be a lone surrogate, which UTF-8 cannot
    # encode.
    return Response(json.dumps(document), status, headers, MEDIA_TYPE)


def failure() -> Response:
    """The response to a defect. The log has the details."""
    return problem(500, "Internal error; the log has the details.")


async def http_error(request: Request, exc: HTTPException) -> Response:
    headers = dict(exc.headers or {})
    # FastAPI lets the detail be anything that JSON can express.
    detail = exc.detail if isinstance(exc.detail, str) else json.dumps(exc.detail)
    if exc.status_code == 404 and "endpoint" not in request.scope:
        detail = "There is no such path. Paths do not end with a slash; /docs lists them."
    if detail == "There was an error parsing the body":  # FastAPI's own
        detail = "The body is not UTF-8, is nested too deep, or has a number with too many digits."
    if exc.status_code == 405:
        headers["Allow"] = ", ".join(allowed_methods(request))
        detail = f"This path allows only {headers['Allow']}."
    if exc.status_code == 503:
        headers.setdefault("Retry-After", "1")
    return problem(exc.status_code, detail, headers=headers)


async def refused(request: Request, exc: Refused) -> Response:
    return problem(exc.status_code, exc.detail, exc.errors)


def allowed_methods(request: Request) -> list[str]:
    """All methods of the path. Starlette lists only those of the first route that matches."""
    methods = [
        method
        for method in ("GET", "POST", "PUT", "PATCH", "DELETE")
        for route in request.app.routes
        if route.matches(dict(request.scope, method=method))[0] is Match.FULL
    ]
    return ["HEAD", *methods] if "GET" in methods else methods


async def invalid_input(request: Request, exc: RequestValidationError) -> Response:
    found = exc.errors()
    errors = [
        InputError(loc=list(error["loc"]), msg=describe(error), type=error["type"])
        for error in found[:MAX_ERRORS]
    ]
    detail = "The input is invalid; see `errors`."
    if len(found) > MAX_ERRORS:
        detail += f" It lists the first {MAX_ERRORS} of {len(found)}."
    return problem(422, detail, errors)


def describe(error: Mapping[str, Any]) -> str:
    message: str = error["msg"].removeprefix("Value error, ")  # pydantic's, before our own messages
    return PATTERNS.get(error.get("ctx", {}).get("pattern"), message)


async def invalid_answer(request: Request, exc: ResponseValidationError) -> Response:
    """A return value does not match its response model. The log must not contain the rows."""
    for error in exc.errors():
        logger.error("The response does not match its schema: %s: %s", error["loc"], error["msg"])
    return failure()


async def not_found(request: Request, exc: NoResultFound) -> Response:
    """`session.get_one` found no row."""
    return problem(404, "There is no row with this id.")


async def stale(request: Request, exc: StaleDataError) -> Response:
    """Another request has deleted the row since this one read it."""
    return problem(409, "Another request has changed the row; read it again.")


MESSAGES = {
    "unique": "another row already has this value",
    "foreign_key": "this refers to a row that does not exist",
    "exclusion": "this overlaps another row",
    "check": "this breaks the rule {}",
}


async def conflict(request: Request, exc: IntegrityError) -> Response:
    """Answers 409 for a unique, foreign-key, CHECK or exclusion constraint.

    The schemas should have caught any other violation, so it is a defect: 500.
    """
    found = find_violation(exc)
    if found is None:
        raise exc
    deleting = request.method == "DELETE" or (exc.statement or "").startswith("DELETE")
    if found.kind == "foreign_key" and deleting:
        return problem(409, "Other rows refer to this one.")
    message = MESSAGES[found.kind].format(found.rule)
    errors = [
        InputError(
            loc=list(loc),
            msg=message if loc[-1] in columns else f"{', '.join(columns)}: {message}",
            type=found.kind,
        )
        for loc, columns in (await find_places(request, found)).items()
    ]
    if not errors:  # the row has a value that is not in the input
        return problem(409, f"This conflicts with existing rows: {message}.")
    return problem(409, "This conflicts with existing rows; see `errors`.", errors[:MAX_ERRORS])


async def database_error(request: Request, exc: DBAPIError) -> Response:
    """Answers 503 when the database is down, full, read-only or not migrated. Else it is a defect: 500."""
    if is_wrong_schema(exc):
        if reason := await health.prober.find_reason():
            return unavailable(reason)
        logger.error("The database schema differs from the models: is a migration missing?")
        raise exc
    if isinstance(exc, OperationalError) or exc.connection_invalidated or is_internal(exc):
        return unavailable(f"{type(exc).__name__}: {explain(exc)}")
    raise exc


def is_internal(exc: DBAPIError) -> bool:
    """Whether the server itself failed. Citus reports this when it loses a worker."""
    return getattr(exc.orig, "sqlstate", None) == "XX000"


async def pool_exhausted(request: Request, exc: PoolTimeout) -> Response:
    return unavailable(f"{type(exc).__name__}: {explain(exc)}")


def unavailable(reason: str) -> Response:
    logger.warning(reason)
    detail = "The database is unavailable; try again."
    return problem(503, detail, headers={"Retry-After": "1"})


HANDLERS: dict[int | type[Exception], Any] = {
    HTTPException: http_error,
    Refused: refused,
    RequestValidationError: invalid_input,
    ResponseValidationError: invalid_answer,
    NoResultFound: not_found,
    StaleDataError: stale,
    IntegrityError: conflict,
    DBAPIError: database_error,
    PoolTimeout: pool_exhausted,
}
