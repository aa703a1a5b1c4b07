"""What every request passes on its way to a route, and every response on its way back."""

from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

# In bytes. A batch of 100 items with every character escaped fits.
MAX_BODY = 1024 * 1024


class HeadAsGet:
    """HEAD wherever there is GET, which FastAPI leaves to us; the server drops the body."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["method"] == "HEAD":
            scope = dict(scope, method="GET")
        await self.app(scope, receive, send)


class LimitBody:
    """413 for a body that is too large, as soon as that is known.

    FastAPI has `max_body_size` for it, but answers in plain text where we promise a problem.
    """

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        declared = Headers(scope=scope).get("content-length", "0")
        too_large = int(declared) > MAX_BODY
        received = 0

        async def limited() -> Message:
            nonlocal received
            message: Message = {} if too_large else await receive()
            received += len(message.get("body", b""))
            if too_large or received > MAX_BODY:
                raise HTTPException(413, f"A body may have {MAX_BODY} bytes at most.")
            return message

        await self.app(scope, limited, send)
