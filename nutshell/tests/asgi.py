"""One request to an ASGI application, without a server or a client around it."""

import asyncio

from starlette.types import ASGIApp, Message, Scope


def make_scope(method: str, target: str, headers: list[tuple[bytes, bytes]]) -> Scope:
    path, _, query = target.partition("?")
    return {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": method,
        "scheme": "http",
        "path": path,
        "raw_path": path.encode(),
        "root_path": "",
        "query_string": query.encode(),
        "headers": [
            (b"host", b"127.0.0.1"),
            (b"accept", b"*/*"),
            (b"user-agent", b"none"),
            *headers,
        ],
        "server": ("127.0.0.1", 8000),
        "client": ("127.0.0.1", 50000),
        "state": {},
    }


async def call(app: ASGIApp, method: str, target: str, body: bytes = b"") -> tuple[int, bytes]:
    """The status and the body of the answer."""
    length = b"%d" % len(body)
    described = [(b"content-type", b"application/json"), (b"content-length", length)]
    scope = make_scope(method, target, described if body else [])
    received: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]
    sent: list[Message] = []

    async def receive() -> Message:
        if not received:
            await asyncio.Event().wait()  # the client stays connected
        return received.pop()

    async def send(message: Message) -> None:
        sent.append(message)

    await app(scope, receive, send)
    return sent[0]["status"], b"".join(message.get("body", b"") for message in sent)
