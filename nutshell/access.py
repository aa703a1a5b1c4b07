"""Access control: by token, or with OPEN_LOCAL for callers on this machine."""

import secrets
from ipaddress import IPv6Address, ip_address

from fastapi import HTTPException, Request
from pydantic import SecretStr

from nutshell.database import SAFE_METHODS
from nutshell.settings import settings

# As the OpenAPI document describes it.
SECURITY_SCHEMES = {"HTTPBearer": {"type": "http", "scheme": "bearer"}}


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
        raise HTTPException(401, "Send the header Authorization: Bearer <token>.", headers)
    if request.method not in SAFE_METHODS:
        raise HTTPException(403, "This token may only read.")


def is_among(tokens: SecretStr | None, given: str) -> bool:
    """Whether it is one of the tokens, compared in constant time."""
    known = tokens.get_secret_value().split(",") if tokens else []
    same = [secrets.compare_digest(given.strip().encode(), token.encode()) for token in known]
    return any(same)
