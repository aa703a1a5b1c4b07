"""HTTP before it becomes a request, and what a connection may cost.

uvicorn's own protocol has no deadlines and reads without end. This adds the limits below, and
problem documents for what is refused before the app sees it.
"""

import asyncio
import logging
import socket
import sys
from contextlib import suppress
from http import HTTPStatus
from typing import Any
from urllib.parse import unquote
from uuid import uuid4

from uvicorn.protocols.http.zttp_impl import ZttpProtocol

from nutshell.errors import problem
from nutshell.settings import settings

logger = logging.getLogger(__name__)

HEAD_SECONDS = 10
HEAD_BYTES = 64 * 1024
WRITE_SECONDS = 30  # without a byte of an answer taken
REST_SECONDS = 10  # for a caller who still sends after the answer, and
REST_BYTES = 1024 * 1024  # as many bytes
STOP_SECONDS = 2  # at SIGTERM, for whoever has not sent a request or not read an answer

# Bytes read from a connection at a time, so that none holds up the others.
READ = 16 * 1024
# What the kernel buffers of an answer. Otherwise it is up to 4 MB, and a caller seems to read
# nothing for as long as that takes.
SEND_BUFFER = 64 * 1024

CLOSE = (b"connection", b"close")
TOO_LARGE = (
    f"The head of a request may have {HEAD_BYTES} bytes and 100 fields at most, "
    "16,000 bytes in each field and in the first line."
)


class Reader(asyncio.BufferedProtocol):
    """Passes what arrives to the Protocol in small parts. The event loop would pass on 256 KiB."""

    buffer = memoryview(bytearray(READ))  # emptied before the next connection is read

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
    """The transport of an answer that may come before the end of its request's body: closing it hangs up."""

    def __init__(self, protocol: "Protocol") -> None:
        self.write = protocol.transport.write
        self.is_closing = protocol.transport.is_closing
        self.close = protocol.hang_up


class Protocol(ZttpProtocol):
    """One connection of one client."""

    # The bytes of a head that is not complete, and the time by which it must be.
    received = 0
    deadline: asyncio.TimerHandle | None = None
    # What of an answer nobody has taken yet, and the time by which it must be less.
    unread = 0
    write_deadline: asyncio.TimerHandle | None = None
    # A part of the next head has come before the answer to this request.
    partial = False
    # The caller sends no more.
    ended = False
    # The last answer has been sent; this many more bytes are read and dropped.
    rest: int | None = None

    @property
    def busy(self) -> bool:
        """Whether a request has begun whose body or answer is still under way."""
        return self.cycle is not None and (self.cycle.more_body or not self.cycle.response_complete)

    @property
    def stopping(self) -> bool:
        return CLOSE in self.server_state.default_headers

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        if self.client is not None:
            # On a socket for both, IPv4 looks like this. FORWARDED_ALLOW_IPS has plain addresses.
            self.client = (self.client[0].removeprefix("::ffff:"), self.client[1])
        # pause_writing is then called whenever a caller is slower than we are.
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
                data = data.lstrip(b"\r\n")  # empty lines are no request (RFC 9112, 2.2)
                if not data:
                    return
            self.received += len(data)
            if self.deadline is None:
                self.expect_head()
        elif not self.cycle.more_body:
            # The next request, before the answer to this one. When that is complete, uvicorn's
            # on_response_complete resumes reading.
            self.flow.pause_reading()
        super().data_received(data)
        if self.busy and not self.cycle.more_body:
            # A request ends with its head, or with its body, or with the last of its chunks.
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
            self.refuse(400, "A path consists of ASCII; escape the rest.", event.method)
        cycle = self.cycle
        if cycle is not before:
            self.received = 0
            if event.target.startswith((b"http://", b"https://")):
                self.take_host(event.path)
            if cycle.more_body:
                # An answer before the end of the body is the last: nobody waits for the rest. uvicorn
                # would close at once, or, without the header, go on reading.
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
        """Says nothing: a server may ignore `Upgrade` (RFC 9110, 7.8), and any caller can send it."""

    def on_response_complete(self) -> None:
        if self.rest is not None:  # it was the last, whatever was sent behind it
            return
        super().on_response_complete()
        if self.partial and not self.busy:
            self.partial = False
            self.received = 1  # or more
            self.expect_head()
        if self.ended and not self.busy:
            self.transport.close()

    def eof_received(self) -> bool:  # type: ignore[override]
        """Keeps the connection of a caller who has sent a request and now waits for the answer."""
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
        if "size limit" in str(sys.exception()):  # of a field, or of their number: zttp's own
            self.refuse(431, TOO_LARGE)
        else:
            self.refuse(400, "This is not HTTP/1.1.")

    def refuse(self, status: int, detail: str, method: bytes = b"") -> None:
        """Answers with a problem document, and hangs up. A silent client gets no answer."""
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
            self.cycle.disconnected = True  # the app's own answer would be a second one
            self.cycle.message_event.set()
            if begun:
                self.transport.close()
                return
        own_id = uuid4().hex
        logger.info("Refused before it was a request: %d, X-Request-ID %s", status, own_id)
        headers = {"connection": "close", "x-request-id": own_id}
        if len(settings.cors_origins) == 1:  # of several we cannot tell which one calls
            headers["access-control-allow-origin"] = settings.cors_origins[0]
            headers["access-control-expose-headers"] = "X-Request-ID"
        answer = problem(status, detail, headers=headers)
        lines = [b"HTTP/1.1 %d %s" % (status, HTTPStatus(status).phrase.encode())]
        lines += [b"%s: %s" % pair for pair in answer.raw_headers]
        body = b"" if method == b"HEAD" else bytes(answer.body)
        self.transport.write(b"\r\n".join([*lines, b"", body]))
        self.hang_up()

    def hang_up(self) -> None:
        """Closes once the caller has had time to read the answer.

        A caller who still sends would lose it to a reset if we closed at once. What they send is
        dropped, unparsed.
        """
        if self.rest is not None:
            return
        self.rest = REST_BYTES
        self.flow.resume_reading()
        with suppress(OSError):  # the caller has gone
            self.transport.write_eof()
        self.loop.call_later(STOP_SECONDS if self.stopping else REST_SECONDS, self.transport.abort)

    def shutdown(self) -> None:
        """At SIGTERM: closes an idle connection. Any other gets its answer, with a last word."""
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
        """Closes the connection of a caller who has not sent a whole request by now."""
        if not self.busy or self.cycle.more_body:
            self.transport.abort()
