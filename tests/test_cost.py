"""What a request costs, without clocks: a change that makes it dearer is seen here.

Function calls are counted as the interpreter reports them; Python versions differ by a tenth.
When a bound breaks for a good reason, write the new figure beside it.
"""

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

import pytest
from asgi import call
from conftest import Wire
from httpx import AsyncClient

import main

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


# Method, target, body, statements (each of them a round trip), calls.
REQUESTS = [
    ("GET", "/healthz", None, [], 1060),
    ("GET", "/users/{id}", None, ["SELECT"], 2150),
    ("GET", "/users?limit=50", None, ["SELECT"], 2480),
    ("POST", "/users", {"name": "Ada"}, ["BEGIN", "INSERT", "COMMIT"], 3500),
    ("PATCH", "/users/{id}", {"name": "Ada {n}"}, ["BEGIN", "UPDATE", "COMMIT"], 3150),
]


@pytest.mark.parametrize(
    ("method", "target", "data", "statements", "bound"),
    REQUESTS,
    ids=[f"{method} {target}" for method, target, *_ in REQUESTS],
)
async def test_request_costs_no_more(
    client: AsyncClient,
    wire: Wire,
    method: str,
    target: str,
    data: dict[str, str] | None,
    statements: Statements,
    bound: int,
) -> None:
    ids = []
    for number in range(60):
        user = {"email": f"user{number}@example.com", "name": "Ada"}
        ids.append((await client.post("/users", json=user)).json()["id"])
    counts = []
    for number in range(5):  # the first ones fill caches
        body = b""
        if data is not None:
            name = data["name"].replace("{n}", str(number))
            email = {"email": f"new{number}@example.com"} if method == "POST" else {}
            body = json.dumps({"name": name} | email).encode()
        wire.clear()
        with counted() as count:
            status, _ = await call(main.app, method, target.format(id=ids[number]), body)
        assert status in (200, 201, 204)
        counts.append(count[0])
    assert wire.verbs() == statements
    print(f"{method} {target}: {min(counts)} calls")
    assert min(counts) <= bound
