"""HTTP before it becomes a request: a head has ten seconds and 64 KiB.

It adds to uvicorn's own protocol what that leaves open: deadlines, and problem documents for what
is refused before the app sees it.
"""

import asyncio
import sys
from typing import Any

from uvicorn.protocols.http.zttp_impl import ZttpProtocol

from nutshell.errors import problem

HEAD_SECONDS = 10
HEAD_BYTES = 64 * 1024
TOO_LARGE = f"The head of a request may have {HEAD_BYTES} bytes and 100 fields at most."


class Protocol(ZttpProtocol):
    """One connection of one client."""

    # The bytes of a head that is not complete, and the time by which it must be.
    received = 0
    deadline: asyncio.TimerHandle | None = None

    @property
    def busy(self) -> bool:
        """Whether a request has begun whose body or answer is still under way."""
        return self.cycle is not None and (self.cycle.more_body or not self.cycle.response_complete)

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        if self.client is not None:
            # On a socket for both, IPv4 looks like this. FORWARDED_ALLOW_IPS has plain addresses.
            self.client = (self.client[0].removeprefix("::ffff:"), self.client[1])
        self.expect_head()

    def connection_lost(self, exc: Exception | None) -> None:
        self.forget_head()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if not self.busy:
            self.received += len(data)
            if self.deadline is None:
                self.expect_head()
        super().data_received(data)
        if self.busy or not self.received:
            self.forget_head()
        elif self.received > HEAD_BYTES:
            self.refuse(431, TOO_LARGE)

    def handle_events(self, event: Any) -> None:
        before = self.cycle
        try:
            super().handle_events(event)
        except UnicodeDecodeError:
            self.refuse(400, "A path consists of ASCII; escape the rest.")
        if self.cycle is not before:
            self.received = 0

    def expect_head(self) -> None:
        late = "The head of a request must arrive within ten seconds."
        self.deadline = self.loop.call_later(HEAD_SECONDS, self.refuse, 408, late)

    def forget_head(self) -> None:
        self.received = 0
        if self.deadline is not None:
            self.deadline.cancel()
            self.deadline = None

    def handle_remote_protocol_error(self) -> None:
        if "size limit" in str(sys.exception()):  # of a field, or of their number: zttp's own
            self.refuse(431, TOO_LARGE)
        else:
            self.refuse(400, "This is not HTTP/1.1.")

    def refuse(self, status: int, detail: str) -> None:
        """Answers with a problem document, and hangs up. A silent client gets no answer."""
        silent = status == 408 and not self.received
        self.forget_head()
        if self.transport.is_closing():
            return
        if not silent and not (self.busy and self.cycle.response_started):
            answer = problem(status, detail, headers={"connection": "close"})
            self.conn.send_response(status, answer.raw_headers)
            self.conn.send_data(bytes(answer.body))
            self.conn.end_message()
            self.transport.write(self.conn.data_to_send())
        self.transport.close()

    def shutdown(self) -> None:
        """At SIGTERM: who has not sent a whole request is not waited for."""
        if self.cycle is not None and self.cycle.more_body:
            self.transport.close()
        else:
            super().shutdown()
