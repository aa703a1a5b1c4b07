"""Who may see the live view: local calls, and where a token is set, only with it."""

import base64
from pathlib import Path

import httpx
import pytest
from fastapi import HTTPException, Request
from pydantic import SecretStr

from nutshell.live.view import check_access
from nutshell.settings import settings
from nutshell.tests.proxies import behind
from nutshell.tests.service import TOKEN, Service, Variables


@pytest.mark.parametrize(
    ("scheme", "given", "expected"),
    [
        ("Bearer", TOKEN, None),
        ("Basic", base64.b64encode(f"any:{TOKEN}".encode()).decode(), None),
        ("basic", base64.b64encode(f":{TOKEN}".encode()).decode(), None),
        ("Bearer", "guess", 401),
        ("Basic", base64.b64encode(b"any:guess").decode(), 401),
        ("Basic", base64.b64encode(TOKEN.encode()).decode(), 401),
        ("Basic", "no base64", 401),
        ("Basic", "\xe9", 401),
        ("", "", 401),
    ],
)
async def test_view_takes_the_token_as_a_password_too(
    monkeypatch: pytest.MonkeyPatch, scheme: str, given: str, expected: int | None
) -> None:
    """A browser's EventSource can send no header of its own, but repeats a password."""
    monkeypatch.setattr(settings, "api_token", SecretStr(TOKEN))
    assert await ask_view(f"{scheme} {given}") == expected


async def test_view_wants_a_local_caller_and_a_token_where_one_is_set(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert await ask_view("") is None
    assert await ask_view("", {"x-forwarded-for": "127.0.0.1"}) == 403
    monkeypatch.setattr(settings, "open_local", False)
    assert await ask_view("") == 403
    monkeypatch.setattr(settings, "api_token", SecretStr(TOKEN))
    bearer = f"Bearer {TOKEN}"
    assert await ask_view(bearer) is None
    assert await ask_view(bearer, {"x-forwarded-for": "127.0.0.1"}) == 403


async def ask_view(authorization: str, more: dict[str, str] | None = None) -> int | None:
    """The status with which the live view refuses, if it does."""
    headers = {"host": "127.0.0.1", "authorization": authorization} | (more or {})
    scope = {
        "type": "http",
        "method": "GET",
        "path": "/trace",
        "query_string": b"",
        "server": ("127.0.0.1", 8000),
        "headers": [(name.encode(), value.encode("latin-1")) for name, value in headers.items()],
    }
    try:
        await check_access(Request(scope))
    except HTTPException as refusal:
        return refusal.status_code
    return None


@pytest.mark.slow
@pytest.mark.parametrize("proxy", ["nginx", "caddy"])
def test_view_is_closed_behind_a_proxy_without_the_token(tmp_path: Path, proxy: str) -> None:
    variables: Variables = {"DATABASE_URL": f"sqlite:///{tmp_path}/test.db", "TRACE": 1}
    with Service(variables) as service, behind(proxy, service, tmp_path) as url:
        for path in ("/trace", "/trace/events"):
            assert httpx.get(url + path).status_code == 403
    variables["API_TOKEN"] = TOKEN
    with Service(variables) as service, behind(proxy, service, tmp_path) as url:
        for path in ("/trace", "/trace/events"):
            assert httpx.get(url + path).status_code in (401, 403)
        seen = httpx.get(f"{url}/trace", auth=("", TOKEN)).status_code
        assert seen == (200 if proxy == "nginx" else 403), "Caddy says that it is a proxy"
