"""Who may call: whoever has a token. When none is set, nobody, or this machine by OPEN_LOCAL."""

import secrets
from ipaddress import IPv6Address, ip_address

from fastapi import HTTPException, Request
from pydantic import SecretStr

from nutshell.database import SAFE_METHODS
from nutshell.settings import settings

# What the OpenAPI document says of it.
SECURITY_SCHEMES = {"HTTPBearer": {"type": "http", "scheme": "bearer"}}


def is_local(request: Request) -> bool:
    """Whether the call was made on this machine, to this machine, and not passed on by a proxy.

    The server's own address comes from the socket, and nobody can forge it. The client's can be
    forged. The `Host` must be local too: a page of another site can have its own name lead here
    (DNS rebinding), and its browser then calls from this machine.
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
    except ValueError:  # a Unix socket, behind which is a proxy
        return False
    if isinstance(address, IPv6Address) and address.ipv4_mapped:  # IPv4, on a socket for both
        address = address.ipv4_mapped
    return address.is_loopback


def check_access(request: Request) -> None:
    """Raises 401 for a wrong token, and 403 for one that may only read.

    While none is set: 403, but for local calls by OPEN_LOCAL.
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
    """Whether it is one of the tokens. How long that takes tells nothing of them."""
    known = tokens.get_secret_value().split(",") if tokens else []
    same = [secrets.compare_digest(given.strip().encode(), token.encode()) for token in known]
    return any(same)
