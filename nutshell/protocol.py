"""Limits on what one connection may cost, before and after it is a request.

uvicorn's own protocol has no deadlines and no limit on what it reads. This adds them, and answers with
problem documents where it refuses input that the app never sees.
"""

import asyncio
import logging
import socket
import sys
from contextlib import suppress
from typing import Any
from urllib.parse import unquote
from uuid import uuid4

from uvicorn.protocols.http.zttp_impl import ZttpProtocol

from nutshell.errors import PHRASES, problem
from nutshell.settings import settings

logger = logging.getLogger(__name__)

HEAD_SECONDS = 10
HEAD_BYTES = 64 * 1024
WRITE_SECONDS = 30  # without progress while a response is sent
# After a response, how much of the rest of a body is read and discarded, and for how long.
REST_SECONDS = 10
REST_BYTES = 1024 * 1024
STOP_SECONDS = 2  # after SIGTERM, for incomplete requests and unread responses

# Bytes read from a connection at a time, so that no connection delays the others.
READ = 16 * 1024
# Bytes of a response that the kernel buffers. Its default is up to 4 MB, and while a slow caller
# drains that, no progress is visible here.
SEND_BUFFER = 64 * 1024

CLOSE = (b"connection", b"close")
TOO_LARGE = (
    f"The head of a request may have {HEAD_BYTES} bytes and 100 fields at most, "
    "16,000 bytes in each field and in the first line."
)


class Reader(asyncio.BufferedProtocol):
    """Passes received data to the Protocol in small chunks. The event loop's own have 256 KiB."""

    buffer = memoryview(bytearray(READ))  # shared: each chunk is copied at once

    def __init__(self, protocol: "Protocol") -> None:
        self.data_received = protocol.data_received
        self.eof_received = protocol.eof_received  # type: ignore[method-assign]
        self.connection_lost = protocol.connection_lost  # type: ignore[method-assign]
        self.pause_writing = protocol.pause_writing  # type: ignore[method-assign]
        self.resume_writing = protocol.resume_writing  # type: ignore[method-assign]

    def get_buffer(self, sizehint: int) -> memoryview:
        return self.buffer

    def buffer_updated(self, nbytes: int) -> None:
        self.data_received(bytes(self.buffer[:nbytes]))


class LastAnswer:
    """The transport of a response that may precede the end of its request's body. Closing it hangs up."""

    def __init__(self, protocol: "Protocol") -> None:
        self.write = protocol.transport.write
        self.is_closing = protocol.transport.is_closing
        self.close = protocol.hang_up


class Protocol(ZttpProtocol):
    """One connection of one client."""

    # Bytes received of an incomplete head, and its deadline.
    received = 0
    deadline: asyncio.TimerHandle | None = None
    # Bytes of a response that the caller has not read, and the deadline for reading some.
    unread = 0
    write_deadline: asyncio.TimerHandle | None = None
    # Part of the next head has arrived before the response to this request.
    partial = False
    # The caller has closed its sending side.
    ended = False
    # After the last response: the number of bytes that may still be read and discarded.
    rest: int | None = None

    @property
    def busy(self) -> bool:
        """Whether the body of a request, or its response, is in progress."""
        return self.cycle is not None and (self.cycle.more_body or not self.cycle.response_complete)

    @property
    def stopping(self) -> bool:
        return CLOSE in self.server_state.default_headers

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        if self.client is not None:
            # A dual-stack socket maps IPv4 addresses. FORWARDED_ALLOW_IPS contains plain ones.
            self.client = (self.client[0].removeprefix("::ffff:"), self.client[1])
        # Call pause_writing as soon as the caller reads more slowly than the service writes.
        transport.set_write_buffer_limits(high=0)
        connection = transport.get_extra_info("socket")
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER)
        transport.set_protocol(Reader(self))
        self.expect_head()

    def connection_lost(self, exc: Exception | None) -> None:
        self.forget_head()
        self.resume_writing()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self.rest is not None:
            self.rest -= len(data)
            if self.rest < 0:
                self.transport.abort()
            return
        if not self.busy:
            if not self.received:
                data = data.lstrip(b"\r\n")  # ignore empty lines (RFC 9112, 2.2)
                if not data:
                    return
            self.received += len(data)
            if self.deadline is None:
                self.expect_head()
        elif not self.cycle.more_body:
            # A pipelined request. uvicorn resumes reading in on_response_complete.
            self.flow.pause_reading()
        super().data_received(data)
        if self.busy and not self.cycle.more_body:
            # A request ends with its head, its body, or its last chunk.
            end = bytes(self.cycle.body[-len(data) :]) or b"\r\n\r\n"
            self.partial = not data.endswith((end, b"\r\n\r\n"))
        if self.busy or not self.received:
            self.forget_head()
        elif self.received > HEAD_BYTES:
            self.refuse(431, TOO_LARGE)

    def handle_events(self, event: Any) -> None:
        before = self.cycle
        try:
            super().handle_events(event)
        except UnicodeDecodeError:
            self.refuse(
                400, "The path contains characters outside ASCII: escape them.", event.method
            )
        cycle = self.cycle
        if cycle is not before:
            self.received = 0
            if event.target.startswith((b"http://", b"https://")):
                self.take_host(event.path)
            if cycle.more_body:
                # A response before the end of the body is the last one on this connection. uvicorn would
                # close at once, or, without the header, keep reading.
                cycle.default_headers = [*cycle.default_headers, CLOSE]
                cycle.transport = LastAnswer(self)  # type: ignore[assignment]
        elif cycle is not None and not cycle.more_body and not cycle.response_started:
            cycle.default_headers = self.server_state.default_headers
            cycle.transport = self.transport

    def take_host(self, target: bytes) -> None:
        """Takes host and path from a target such as `http://host/path` (RFC 9112, 3.2.2)."""
        host, _, path = target.partition(b"://")[2].partition(b"/")
        scope = self.cycle.scope
        scope["path"] = f"{self.root_path}/{unquote(path.decode('ascii'))}"
        scope["raw_path"] = self.root_path.encode("ascii") + b"/" + path
        others = [(name, value) for name, value in scope["headers"] if name != b"host"]
        scope["headers"] = [(b"host", host), *others]

    def _unsupported_upgrade_warning(self) -> None:
        """Logs nothing: a server may ignore `Upgrade` (RFC 9110, 7.8), and any caller can send it."""

    def on_response_complete(self) -> None:
        if self.rest is not None:  # it was the last one, whatever has been pipelined
            return
        super().on_response_complete()
        if self.partial and not self.busy:
            self.partial = False
            self.received = 1  # or more
            self.expect_head()
        if self.ended and not self.busy:
            self.transport.close()

    def eof_received(self) -> bool:  # type: ignore[override]
        """Keeps the connection open if the caller waits for the response to a complete request."""
        self.ended = True
        return self.rest is None and self.busy and not self.cycle.more_body

    def pause_writing(self) -> None:
        super().pause_writing()
        self.unread = self.transport.get_write_buffer_size()
        self.expect_reading()

    def resume_writing(self) -> None:
        super().resume_writing()
        if self.write_deadline is not None:
            self.write_deadline.cancel()
            self.write_deadline = None

    def expect_reading(self) -> None:
        if self.write_deadline is not None:
            self.write_deadline.cancel()
        seconds = STOP_SECONDS if self.stopping else WRITE_SECONDS
        self.write_deadline = self.loop.call_later(seconds, self.check_reading)

    def check_reading(self) -> None:
        before, self.unread = self.unread, self.transport.get_write_buffer_size()
        if self.unread < before:
            self.expect_reading()
        else:
            self.transport.abort()

    def expect_head(self) -> None:
        late = "The head of a request must arrive within ten seconds."
        seconds = STOP_SECONDS if self.stopping else HEAD_SECONDS
        self.deadline = self.loop.call_later(seconds, self.refuse, 408, late)

    def forget_head(self) -> None:
        self.received = 0
        if self.deadline is not None:
            self.deadline.cancel()
            self.deadline = None

    def handle_remote_protocol_error(self) -> None:
        if "size limit" in str(
            sys.exception()
        ):  # of zttp: a field is too long, or there are too many
            self.refuse(431, TOO_LARGE)
        else:
            self.refuse(400, "The request is not valid HTTP/1.1.")

    def refuse(self, status: int, detail: str, method: bytes = b"") -> None:
        """Answers with a problem document and hangs up. A client that sent nothing gets no answer."""
        silent = status == 408 and not self.received
        self.forget_head()
        if self.transport.is_closing() or self.rest is not None:
            return
        if silent:
            self.transport.close()
            return
        if self.busy:
            method = self.cycle.scope["method"].encode()
            begun = self.cycle.response_started
            self.cycle.disconnected = True  # discard the app's own response
            self.cycle.message_event.set()
            if begun:
                self.transport.close()
                return
        own_id = uuid4().hex
        logger.info("Refused an invalid request: %d, X-Request-ID %s", status, own_id)
        headers = {"connection": "close", "x-request-id": own_id}
        if len(settings.cors_origins) == 1:  # the caller's origin is unknown
            headers["access-control-allow-origin"] = settings.cors_origins[0]
            headers["access-control-expose-headers"] = "X-Request-ID"
        answer = problem(status, detail, headers=headers)
        lines = [b"HTTP/1.1 %d %s" % (status, PHRASES[status].encode())]
        lines += [b"%s: %s" % pair for pair in answer.raw_headers]
        body = b"" if method == b"HEAD" else bytes(answer.body)
        self.transport.write(b"\r\n".join([*lines, b"", body]))
        self.hang_up()

    def hang_up(self) -> None:
        """Closes the connection after the caller has had time to read the response.

        Closing at once would reset the connection of a caller that is still sending, and the response
        would be lost. What arrives meanwhile is discarded.
        """
        if self.rest is not None:
            return
        self.rest = REST_BYTES
        self.flow.resume_reading()
        with suppress(OSError):  # the connection is gone
            self.transport.write_eof()
        self.loop.call_later(STOP_SECONDS if self.stopping else REST_SECONDS, self.transport.abort)

    def shutdown(self) -> None:
        """Closes an idle connection. A pending response is sent first, with `Connection: close`."""
        if not self.stopping:
            self.server_state.default_headers.append(CLOSE)
        if self.flow.write_paused:
            self.expect_reading()
        if self.rest is not None or self.received or (self.busy and self.cycle.more_body):
            self.loop.call_later(STOP_SECONDS, self.give_up)
        else:
            super().shutdown()
        if self.busy and not self.cycle.response_started:
            self.cycle.default_headers = self.server_state.default_headers

    def give_up(self) -> None:
        """Closes a connection whose request is still incomplete."""
        if not self.busy or self.cycle.more_body:
            self.transport.abort()
