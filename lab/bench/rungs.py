"""The service in versions that do less: each rung does what the one below does, and one thing more.

`python -m lab.bench.rungs` serves all of them, each below a prefix of its own; layers.py counts what they
cost. The highest rung is the service as it is.
"""

from collections.abc import Callable
from typing import Annotated, Any

from fastapi import FastAPI, Query, Response
from fastapi.routing import APIRoute
from sqlalchemy import Select, bindparam
from sqlmodel import col
from starlette.types import ASGIApp, Receive, Scope, Send

import main
from models import User, UserFilter, UserRead
from nutshell.__main__ import serve
from nutshell.access import check_access
from nutshell.app import create_app
from nutshell.database import SessionDep, SnapshotDep
from nutshell.fields import Id
from nutshell.routes import ReplyDep, ResourceRoute

ONE = b'{"id":77,"email":"user77@example.com","name":"User 77","bio":"The bio of user 77",'
ONE += b'"created_at":"2026-11-26T00:00:00.000000Z"}'
PAGE = b"[" + b",".join([ONE] * 50) + b"]"
# Built once, as the ORM builds the statement of get_one.
COLUMNS = [col(User.id), col(User.email), col(User.name), col(User.bio), col(User.created_at)]
ONE_USER: Any = Select(*COLUMNS).where(col(User.id) == bindparam("id"))

service = main.app


def answer(body: bytes) -> Response:
    return Response(body, media_type="application/json")


# GET one


async def answer_one() -> Response:
    return answer(ONE)


async def take_id(user_id: Id) -> Response:
    return answer(ONE)


async def take_session(user_id: Id, session: SessionDep) -> Response:
    return answer(ONE)


async def take_connection(user_id: Id, session: SessionDep) -> Response:
    await session.connection()
    return answer(ONE)


async def execute_one(user_id: Id, session: SessionDep) -> Response:
    connection = await session.connection()
    (await connection.execute(ONE_USER, {"id": user_id})).one()
    return answer(ONE)


async def load_one(user_id: Id, session: SessionDep) -> Response:
    await session.get_one(User, user_id)
    return answer(ONE)


async def read_snapshot(user_id: Id, session: SnapshotDep) -> User:
    return await session.get_one(User, user_id)


# List of 50. The filters are parameters of every route from take_filters on.

Filters = Annotated[UserFilter, Query()]


async def answer_page() -> Response:
    return answer(PAGE)


async def take_filters(filters: Filters, reply: ReplyDep) -> Response:
    return answer(PAGE)


async def take_session_too(filters: Filters, session: SessionDep, reply: ReplyDep) -> Response:
    return answer(PAGE)


async def take_connection_too(filters: Filters, session: SessionDep, reply: ReplyDep) -> Response:
    await session.connection()
    return answer(PAGE)


async def execute_page(filters: Filters, session: SessionDep, reply: ReplyDep) -> Response:
    connection = await session.connection()
    (statement,) = filters.in_order(filters.select(User, UserRead))
    (await connection.execute(statement.limit(51))).all()
    return answer(PAGE)


async def fetch_page(filters: Filters, session: SessionDep, reply: ReplyDep) -> Response:
    await reply.page(session, filters.select(User, UserRead), filters)
    return answer(PAGE)


def plain(path: str, endpoint: Callable[..., Any]) -> FastAPI:
    app = FastAPI(telemetry={"logs": False}, openapi_url=None)
    app.get(path)(endpoint)
    return app


def replaced(
    path: str,
    endpoint: Callable[..., Any],
    *,
    route: type[APIRoute] = ResourceRoute,
    check: Callable[..., Any] = check_access,
) -> FastAPI:
    """The service with another endpoint for one of its GETs, at the same place among its routes."""
    app = create_app("A rung", "", check=check)
    app.router.route_class = route
    model = UserRead if "{" in path else list[UserRead]
    app.get(path, response_model=model)(endpoint)
    new = app.router.routes[-1]
    app.router.routes[:] = [
        new if isinstance(old, APIRoute) and old.path == path and old.methods == {"GET"} else old
        for old in service.router.routes
    ]
    return app


async def answer_bytes(scope: Scope, receive: Receive, send: Send) -> None:
    body = PAGE if scope["path"] == "/users" else ONE
    headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(body))]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body})


def admit_all(_: object) -> None:
    pass


def build(path: str, endpoints: list[Callable[..., Any]]) -> list[ASGIApp]:
    """The apps of a ladder, from the lowest: the endpoints begin with one that only answers."""
    first, *others = endpoints
    return [
        answer_bytes,
        plain(path, first),
        replaced(path, first, route=APIRoute, check=admit_all),
        replaced(path, first, check=admit_all),
        replaced(path, first),
        *(replaced(path, other) for other in others),
        service,
    ]


LADDERS = {
    "/users/77": build(
        "/users/{user_id}",
        [answer_one, take_id, take_session, take_connection, execute_one, load_one],
    ),
    "/users?limit=50": build(
        "/users",
        [
            answer_page,
            take_filters,
            take_session_too,
            take_connection_too,
            execute_page,
            fetch_page,
        ],
    ),
}
SNAPSHOT = replaced("/users/{user_id}", read_snapshot)

APPS = {
    f"{side}-{number}": app
    for side, ladder in enumerate(LADDERS.values())
    for number, app in enumerate(ladder)
} | {"snapshot": SNAPSHOT}


async def choose(scope: Scope, receive: Receive, send: Send) -> None:
    if scope["type"] == "http":
        prefix, slash, path = scope["path"][1:].partition("/")
        if app := APPS.get(prefix):
            path = slash + path
            await app(dict(scope, path=path, raw_path=path.encode()), receive, send)
            return
    await service(scope, receive, send)


if __name__ == "__main__":
    main.app = choose  # type: ignore[assignment]
    serve(reload=False)
