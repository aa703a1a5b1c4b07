"""What a request costs, without clocks: a change that makes it dearer is seen here.

Function calls are counted as the interpreter reports them, without those that find the route: they
grow with the number of routes. Python versions differ by a tenth. When a bound breaks for a good
reason, write the new figure beside it.
"""

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

import pytest
from fastapi import FastAPI
from httpx import AsyncClient
from starlette.routing import Match

from nutshell.tests.fixtures import Wire
from nutshell.tests.asgi import call

Statements = list[str]


@contextmanager
def counted() -> Iterator[list[int]]:
    """The number of calls in this thread, of Python and of C functions, when the block ends."""
    count = [0]

    def see(frame: FrameType, event: str, _: Any) -> None:
        if event in ("call", "c_call"):
            count[0] += 1

    before = sys.getprofile()
    sys.setprofile(see)
    try:
        yield count
    finally:
        sys.setprofile(before)


def find_route(app: FastAPI, method: str, target: str) -> None:
    """What the router does before it calls a route."""
    scope = {"type": "http", "method": method, "path": target.partition("?")[0], "headers": []}
    for route in app.routes:
        if route.matches(scope)[0] is Match.FULL:
            return


# Method, target, body, statements (each of them a round trip), calls.
REQUESTS = [
    ("GET", "/healthz", None, [], 300),
    ("GET", "/shelves/{id}", None, ["SELECT"], 1620),
    # Twelve calls for each row are SQLModel's own, in its Read schema.
    ("GET", "/shelves?limit=50", None, ["SELECT"], 2950),
    ("POST", "/shelves", {"place": "Hall"}, ["BEGIN", "INSERT", "COMMIT"], 2950),
    (
        "PATCH",
        "/shelves/{id}",
        {"place": "Hall {n}"},
        ["BEGIN", "SELECT", "UPDATE", "COMMIT"],
        3260,
    ),
]


@pytest.mark.parametrize(
    ("method", "target", "data", "statements", "bound"),
    REQUESTS,
    ids=[f"{method} {target}" for method, target, *_ in REQUESTS],
)
async def test_request_costs_no_more(
    client: AsyncClient,
    app: FastAPI,
    wire: Wire,
    method: str,
    target: str,
    data: dict[str, str] | None,
    statements: Statements,
    bound: int,
) -> None:
    ids = []
    for number in range(51 if "limit" in target else 5):
        shelf = {"label": f"Shelf {number}", "place": "Hall"}
        ids.append((await client.post("/shelves", json=shelf)).json()["id"])
    counts = []
    for number in range(5):  # the first ones fill caches
        body = b""
        if data is not None:
            place = data["place"].replace("{n}", str(number))
            label = {"label": f"New {number}"} if method == "POST" else {}
            body = json.dumps({"place": place} | label).encode()
        path = target.format(id=ids[number])
        with counted() as finding:
            find_route(app, method, path)
        wire.clear()
        with counted() as count:
            status, _ = await call(app, method, path, body)
        assert status in (200, 201, 204)
        counts.append(count[0] - finding[0])
    assert wire.verbs() == statements
    print(f"{method} {target}: {min(counts)} calls")
    assert min(counts) <= bound
