"""Access control: by token, with OPEN_LOCAL for callers on this machine, or by a check of your own."""

import secrets
from collections.abc import Callable
from inspect import isawaitable
from ipaddress import IPv6Address, ip_address
from typing import Any

from fastapi import HTTPException, Request
from pydantic import SecretStr

from nutshell.database import SAFE_METHODS
from nutshell.settings import settings

# What `create_app` takes as `check`. It may be async.
Check = Callable[[Request], Any]

# As the OpenAPI document describes it.
SECURITY_SCHEMES = {"HTTPBearer": {"type": "http", "scheme": "bearer"}}


async def admit(request: Request) -> None:
    """Runs the app's check, and keeps the caller that it returns for `get_caller`."""
    caller = request.app.state.check(request)
    if isawaitable(caller):
        caller = await caller
    if not (caller is None or isinstance(caller, str) or hasattr(caller, "id")):
        raise TypeError("A check must return the caller's id, an object with an id, or None.")
    request.state.caller = caller


def get_caller(request: Request) -> Any:
    """The caller of this request, as the app's own check has returned it.

    A route declares it with its type: `CallerDep = Annotated[Claims, Depends(get_caller)]`.
    """
    return request.state.caller


def is_local(request: Request) -> bool:
    """Whether the caller is on this machine, and not behind a proxy.

    The server's own address comes from the socket, so it cannot be forged, unlike the client's. The
    `Host` must be local too: another site's domain can resolve to this machine (DNS rebinding), and then
    its pages call from the local browser.
    """
    server, _ = request.scope.get("server") or ("", None)
    name = request.url.hostname or ""
    return (
        is_loopback(server)
        and (name == "localhost" or is_loopback(name))
        and not any(
            name.startswith("x-forwarded-") or name in ("forwarded", "via", "x-real-ip")
            for name in request.headers
        )
    )


def is_loopback(host: str) -> bool:
    try:
        address = ip_address(host)
    except ValueError:  # a Unix socket, which only proxies use
        return False
    if isinstance(address, IPv6Address) and address.ipv4_mapped:  # IPv4 on a dual-stack socket
        address = address.ipv4_mapped
    return address.is_loopback


def check_access(request: Request) -> None:
    """Raises 401 for a missing or wrong token, and 403 for one that may only read.

    If no token is configured, raises 403, except for local callers with OPEN_LOCAL.
    """
    if settings.api_token is None and settings.api_read_token is None:
        if not settings.open_local:
            raise HTTPException(403, "Set API_TOKEN in the environment of the service to open it.")
        if not is_local(request):
            raise HTTPException(403, "Only local calls are allowed until API_TOKEN is set.")
        return
    scheme, _, given = request.headers.get("authorization", "").partition(" ")
    bearer = scheme.lower() == "bearer"
    if bearer and is_among(settings.api_token, given):
        return
    if not bearer or not is_among(settings.api_read_token, given):
        headers = {"WWW-Authenticate": "Bearer"}
        missing = "Send the header Authorization: Bearer <token>."
        detail = "This token is not valid." if bearer and given else missing
        raise HTTPException(401, detail, headers)
    if request.method not in SAFE_METHODS:
        raise HTTPException(403, "This token may only read.")


def describe_access(check: Check) -> str:
    """Who may call, for the log."""
    if check is not check_access:
        return "Open to callers whom the service's own check admits."
    if settings.api_token or settings.api_read_token:
        return "Open to callers with a token."
    if settings.open_local:
        return "Open to local callers, without API_TOKEN."
    return "Closed except for health and documentation: set API_TOKEN."


def is_among(tokens: SecretStr | None, given: str) -> bool:
    """Whether it is one of the tokens, compared in constant time."""
    known = tokens.get_secret_value().split(",") if tokens else []
    same = [secrets.compare_digest(given.strip().encode(), token.encode()) for token in known]
    return any(same)
