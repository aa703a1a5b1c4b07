"""Access control: by token, or with OPEN_LOCAL for callers on this machine."""

import re

import httpx
import pytest
from pydantic import SecretStr
from starlette.types import Receive, Scope, Send

from nutshell.tests import library
from nutshell.tests.fixtures import assert_problem
from nutshell.settings import settings

TOKEN = "open sesame"
PATHS = [
    (method, re.sub(r"{\w+}", "1", path))
    for path, methods in library.app.openapi()["paths"].items()
    for method in methods
    if path not in ("/healthz", "/readyz")
]


@pytest.fixture
def token(monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setattr(settings, "api_token", SecretStr(TOKEN))
    return TOKEN


def caller(base_url: str) -> httpx.AsyncClient:
    """A client whose connection arrives at the server's own address in `base_url`."""
    transport = httpx.ASGITransport(library.app)
    return httpx.AsyncClient(transport=transport, base_url=base_url)


@pytest.mark.parametrize(
    "header",
    [
        None,
        "",
        "Bearer",
        "Bearer ",
        "Bearer open",
        "Bearer open sesame!",
        "Bearer OPEN SESAME",
        "Basic open sesame",
        "open sesame",
        "Bearer \xe9",
    ],
)
async def test_wrong_token_is_unauthorized(
    client: httpx.AsyncClient, token: str, header: str | None
) -> None:
    headers = [] if header is None else [(b"authorization", header.encode("latin-1"))]
    response = await client.get("/shelves", headers=headers)
    assert_problem(response, 401)
    assert response.headers["www-authenticate"] == "Bearer"
    wrong = header is not None and header.startswith("Bearer ") and len(header) > 7
    assert ("not valid" in response.json()["detail"]) == wrong


async def test_every_resource_route_wants_the_token(client: httpx.AsyncClient, token: str) -> None:
    assert len(PATHS) > 10
    for method, path in PATHS:
        assert_problem(await client.request(method, path), 401)
        bearer = {"authorization": f"Bearer {token}"}
        response = await client.request(method, path, headers=bearer)
        assert response.status_code in (200, 404, 422)


async def test_service_without_token_is_closed(
    client: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(settings, "open_local", False)
    for method, path in PATHS:
        response = await client.request(method, path)
        assert_problem(response, 403)
        assert "Set API_TOKEN" in response.json()["detail"]
    for path in ("/healthz", "/readyz", "/docs", "/openapi.json"):
        assert (await client.get(path)).status_code == 200


async def test_health_and_docs_want_no_token(client: httpx.AsyncClient, token: str) -> None:
    for path in ("/healthz", "/readyz", "/docs", "/openapi.json"):
        assert (await client.get(path)).status_code == 200


async def test_docs_offer_to_authorize(client: httpx.AsyncClient) -> None:
    document = (await client.get("/openapi.json")).json()
    assert document["components"]["securitySchemes"] == {
        "HTTPBearer": {"type": "http", "scheme": "bearer"}
    }
    for path, methods in document["paths"].items():
        for operation in methods.values():
            guarded = path not in ("/healthz", "/readyz")
            assert operation.get("security") == ([{"HTTPBearer": []}] if guarded else [])


@pytest.mark.parametrize("address", ["127.0.0.1", "127.8.8.8", "[::1]"])
async def test_local_call_without_token_is_allowed(client: httpx.AsyncClient, address: str) -> None:
    async with caller(f"http://{address}") as local:
        assert (await local.get("/shelves")).status_code == 200


@pytest.mark.parametrize("server", ["127.0.0.1", "::1", "::ffff:127.0.0.1"])
async def test_local_call_by_another_name_is_forbidden(
    client: httpx.AsyncClient, server: str
) -> None:
    """A page of another site can have its own name lead here: DNS rebinding."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await library.app(dict(scope, server=(server, 8000)), receive, send)

    transport = httpx.ASGITransport(app)
    async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1") as caller:
        for host in ("evil.example", "evil.example:8000", "localhost.evil.example", "127.0.0.1.a"):
            for method in ("GET", "POST", "DELETE"):
                response = await caller.request(method, "/shelves", headers={"host": host})
                assert_problem(response, 403 if method != "DELETE" else 405)
        for host in ("localhost", "LOCALHOST:80", "127.0.0.1", "[::1]:8000", "127.1.2.3"):
            assert (await caller.get("/shelves", headers={"host": host})).status_code == 200


@pytest.mark.parametrize("address", ["10.0.0.5", "203.0.113.9", "[2001:db8::1]", "0.0.0.0"])
async def test_remote_call_without_token_is_forbidden(
    client: httpx.AsyncClient, address: str
) -> None:
    async with caller(f"http://{address}") as remote:
        for name, value in {
            "accept": "*/*",
            "host": "127.0.0.1",
            "x-forwarded-for": "127.0.0.1",
            "x-forwarded-host": "localhost",
            "forwarded": "for=127.0.0.1;host=localhost",
            "x-real-ip": "127.0.0.1",
            "authorization": "Bearer guess",
            "origin": "http://127.0.0.1",
        }.items():
            response = await remote.get("/shelves", headers={name: value})
            assert_problem(response, 403)
            assert "API_TOKEN" in response.json()["detail"]
        assert (await remote.get("/healthz")).status_code == 200


@pytest.mark.parametrize(
    "name",
    ["x-forwarded-for", "X-Forwarded-Proto", "x-forwarded-x", "forwarded", "via", "x-real-ip"],
)
async def test_call_passed_on_by_a_proxy_without_token_is_forbidden(
    client: httpx.AsyncClient, name: str
) -> None:
    assert_problem(await client.get("/shelves", headers={name: "127.0.0.1"}), 403)


@pytest.mark.parametrize("server", [None, ("/run/nutshell.sock", None)])
async def test_unix_socket_without_token_is_forbidden(
    client: httpx.AsyncClient, server: tuple[str, None] | None
) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await library.app(dict(scope, server=server), receive, send)

    transport = httpx.ASGITransport(app)
    async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1") as caller:
        assert_problem(await caller.get("/shelves"), 403)


async def test_each_of_several_tokens_is_accepted(
    client: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(settings, "api_token", SecretStr("old,new"))
    for token, status in (("old", 200), ("new", 200), ("old,new", 401), ("", 401)):
        headers = {"authorization": f"Bearer {token}"}
        assert (await client.get("/shelves", headers=headers)).status_code == status


@pytest.mark.parametrize("full", ["full", None])
async def test_read_token_only_reads(
    client: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch, full: str | None
) -> None:
    monkeypatch.setattr(settings, "api_token", full and SecretStr(full))
    monkeypatch.setattr(settings, "api_read_token", SecretStr("one,two"))
    for token in ("one", "two"):
        headers = {"authorization": f"Bearer {token}"}
        for method, path in PATHS:
            answer = await client.request(method.upper(), path, headers=headers)
            if method == "get":
                assert answer.status_code in (200, 404)
            else:
                assert_problem(answer, 403)
                assert answer.json()["detail"] == "This token may only read."
        assert (await client.head("/shelves", headers=headers)).status_code == 200
    assert_problem(await client.get("/shelves"), 401)
