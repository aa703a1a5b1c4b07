"""HTTP over real connections: limits, deadlines, and what never becomes a request."""

import asyncio
import json
import logging
import socket
import time
from collections.abc import AsyncIterator
from contextlib import ExitStack, asynccontextmanager

import pytest
import uvicorn
from fastapi import FastAPI, Request, Response
from fastapi.responses import StreamingResponse
from fastapi.sse import EventSourceResponse, ServerSentEvent
from pydantic import SecretStr

from nutshell.tests.fixtures import Pools
from nutshell import middleware, protocol
from nutshell.protocol import HEAD_BYTES, Protocol
from nutshell.server import Server
from nutshell.settings import settings

BODY = b'{"title": "Notes"}'
HOST = b"host: 127.0.0.1\r\n"
JSON = HOST + b"content-type: application/json\r\n"
LENGTH = b"content-length: %d\r\n" % len(BODY)


@asynccontextmanager
async def serving(
    app: FastAPI, listener: socket.socket | None = None
) -> AsyncIterator[tuple[uvicorn.Server, int]]:
    """The app behind the service's own protocol, on a port of its own."""
    config = uvicorn.Config(app, http=Protocol, port=0, ws="none", lifespan="off", log_config=None)
    config.load()
    server = Server(config)
    server.lifespan = config.lifespan_class(config)
    await server.startup([listener] if listener else None)
    await server.on_tick(0)  # sets the headers of all answers
    port = server.servers[0].sockets[0].getsockname()[1]
    try:
        yield server, port
    finally:
        for listening in server.servers:
            listening.close()
        for connection in list(server.server_state.connections):
            connection.transport.abort()


@pytest.fixture
async def port(app: FastAPI) -> AsyncIterator[int]:
    async with serving(app) as (_, port):
        yield port


@pytest.fixture
async def storing_port(app: FastAPI, pools: Pools) -> AsyncIterator[int]:
    """The same, with a database behind it."""
    async with serving(app) as (_, port):
        yield port


async def stop(server: uvicorn.Server) -> None:
    """What SIGTERM does."""
    server.should_exit = True
    await server.shutdown()


async def wait_until_left(server: uvicorn.Server) -> None:
    """Returns when the server has closed its connections, of which there must be one now."""
    assert server.server_state.connections
    async with asyncio.timeout(5):
        while server.server_state.connections:  # noqa: ASYNC110 (uvicorn has no event for it)
            await asyncio.sleep(0.05)


@pytest.mark.parametrize("anyio_backend", [("asyncio", {"use_uvloop": True})])
async def test_burst_of_connections_is_accepted_in_one_turn_of_the_loop(app: FastAPI) -> None:
    """A busy loop serves everybody else before the next turn."""
    with socket.create_server(("127.0.0.1", 0)) as listener, ExitStack() as callers:
        for _ in range(16):
            callers.enter_context(socket.create_connection(listener.getsockname()))
        async with serving(app, listener) as (server, _):
            accepted = server.server_state.connections
            turns = 0
            while len(accepted) < 16:
                turns += bool(accepted)
                await asyncio.sleep(0)
    assert turns == 0


class Caller:
    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    async def send(self, *parts: bytes, pause: float = 0) -> None:
        try:
            for part in parts:
                self.writer.write(part)
                await self.writer.drain()
                if pause:
                    await asyncio.sleep(pause)
        except ConnectionError:
            pass  # the server has answered, and does not want the rest

    async def answer(self, seconds: float = 5) -> tuple[int, dict[bytes, bytes], bytes]:
        """The status, the headers and the body of one answer; status 0 when there is none."""
        async with asyncio.timeout(seconds):
            try:
                head = await self.reader.readuntil(b"\r\n\r\n")
            except (asyncio.IncompleteReadError, ConnectionError):
                return 0, {}, b""
            first, *lines = head.strip().split(b"\r\n")
            headers = dict(line.lower().split(b": ", 1) for line in lines)
            body = await self.reader.readexactly(int(headers.get(b"content-length", b"0")))
            return int(first.split()[1]), headers, body

    async def is_cut(self, seconds: float = 5) -> bool:
        async with asyncio.timeout(seconds):
            try:
                return await self.reader.read() == b""
            except ConnectionError:
                return True


@asynccontextmanager
async def calling(port: int) -> AsyncIterator[Caller]:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        yield Caller(reader, writer)
    finally:
        writer.close()


async def exchange(
    port: int, *parts: bytes, pause: float = 0
) -> tuple[int, dict[bytes, bytes], bytes]:
    async with calling(port) as caller:
        sending = asyncio.create_task(caller.send(*parts, pause=pause))
        answer = await caller.answer()
        sending.cancel()
        return answer


def assert_problem(answer: tuple[int, dict[bytes, bytes], bytes], status: int) -> None:
    assert answer[0] == status, answer
    assert answer[1][b"content-type"] == b"application/problem+json"
    assert json.loads(answer[2])["status"] == status


def post(headers: bytes = LENGTH, body: bytes = BODY) -> bytes:
    return b"POST /books HTTP/1.1\r\n" + JSON + headers + b"\r\n" + body


async def test_ordinary_requests_share_a_connection(storing_port: int) -> None:
    async with calling(storing_port) as caller:
        for _ in range(3):
            await caller.send(post())
            status, headers, _ = await caller.answer()
            assert status == 201
            await caller.send(b"GET " + headers[b"location"] + b" HTTP/1.1\r\n" + HOST + b"\r\n")
            assert (await caller.answer())[0] == 200


@pytest.mark.parametrize("pieces", [1, 7, 700])
@pytest.mark.parametrize("line", [b"x: " + b"y" * 2000, b"x: y"])
async def test_head_over_the_limit_is_refused(port: int, pieces: int, line: bytes) -> None:
    size = 3 * HEAD_BYTES
    head = b"GET /healthz HTTP/1.1\r\n" + HOST + (line + b"\r\n") * (size // (len(line) + 2))
    step = len(head) // pieces + 1
    parts = [head[i : i + step] for i in range(0, len(head), step)]
    began = time.process_time()
    assert_problem(await exchange(port, *parts, b"\r\n"), 431)
    assert time.process_time() - began < 1


@pytest.mark.parametrize("method", [b"POST", b"PATCH", b"DELETE"])
async def test_body_with_a_wrong_chunk_is_refused_in_words(port: int, method: bytes) -> None:
    head = method + b" /books/1 HTTP/1.1\r\n" + HOST + b"content-type: application/json\r\n"
    head += b"transfer-encoding: chunked\r\n\r\n"
    assert_problem(await exchange(port, head, b"no size\r\n"), 400)


async def test_head_within_the_limit_is_served(port: int) -> None:
    lines = b"".join(b"x-%d: %s\r\n" % (n, b"y" * 2000) for n in range(20))
    head = b"GET /healthz HTTP/1.1\r\n" + HOST + lines + b"\r\n"
    assert len(head) < HEAD_BYTES
    assert (await exchange(port, head))[0] == 200
    assert (await exchange(port, *(head[i : i + 999] for i in range(0, len(head), 999))))[0] == 200


@pytest.mark.parametrize(
    "sent", [b"", b"GET /healthz HT", b"GET /healthz HTTP/1.1\r\nhost: 127.0.0.1\r\nx"]
)
async def test_silent_caller_is_left(
    port: int, sent: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(protocol, "HEAD_SECONDS", 0.2)
    async with calling(port) as caller:
        await caller.send(sent)
        if sent:
            assert_problem(await caller.answer(), 408)
        assert await caller.is_cut()


async def test_dripping_head_is_left_too(port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(protocol, "HEAD_SECONDS", 0.3)
    drip = [b"GET /healthz HTTP/1.1\r\n", *([b"x: y\r\n"] * 100)]
    began = time.monotonic()
    assert_problem(await exchange(port, *drip, pause=0.05), 408)
    assert time.monotonic() - began < 3


async def test_half_a_head_after_an_answer_is_left_too(
    port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with calling(port) as caller:
        await caller.send(b"GET /healthz HTTP/1.1\r\n" + HOST + b"\r\n")
        assert (await caller.answer())[0] == 200
        monkeypatch.setattr(protocol, "HEAD_SECONDS", 0.2)
        await caller.send(b"GET /hea")
        assert_problem(await caller.answer(), 408)
        assert await caller.is_cut()


async def test_idle_connection_is_kept(port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(protocol, "HEAD_SECONDS", 0.2)
    request = b"GET /healthz HTTP/1.1\r\n" + HOST + b"\r\n"
    async with calling(port) as caller:
        for _ in range(2):
            await caller.send(request)
            assert (await caller.answer())[0] == 200
            await asyncio.sleep(0.4)


async def test_slow_route_is_not_cut(
    extra: FastAPI, port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    @extra.get("/slow")
    async def be_slow() -> None:
        await asyncio.sleep(0.4)

    monkeypatch.setattr(protocol, "HEAD_SECONDS", 0.2)
    assert (await exchange(port, b"GET /slow HTTP/1.1\r\n" + HOST + b"\r\n"))[0] == 200


async def test_body_that_stops_is_not_waited_for(
    port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(middleware, "BODY_SILENCE", 0.2)
    async with calling(port) as caller:
        await caller.send(post(body=BODY[:5]))
        assert_problem(await caller.answer(), 408)
        assert await caller.is_cut()


async def test_dripping_body_has_a_bound(port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(middleware, "BODY_SECONDS", 0.3)
    drip = [bytes([letter]) for letter in BODY]
    assert_problem(await exchange(port, post(body=b""), *drip, pause=0.05), 408)


async def test_token_is_checked_before_the_body_is_read(
    port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(settings, "api_token", SecretStr("sesame"))
    assert_problem(await exchange(port, post(body=b"{")), 401)
    assert_problem(await exchange(port, post(b"content-length: 1000000\r\n", b"")), 401)


@pytest.mark.parametrize(
    "upgrade",
    [
        b"connection: Upgrade, HTTP2-Settings\r\nupgrade: h2c\r\nhttp2-settings: AAMAAABk\r\n",
        b"connection: upgrade\r\nupgrade: websocket\r\n",
        b"connection: upgrade\r\nupgrade: nonsense\r\n",
    ],
)
async def test_request_to_upgrade_is_an_ordinary_request(storing_port: int, upgrade: bytes) -> None:
    async with calling(storing_port) as caller:
        await caller.send(post(upgrade + LENGTH))
        assert (await caller.answer())[0] == 201
        await caller.send(post(upgrade + LENGTH, body=b""), BODY, pause=0.1)
        assert (await caller.answer())[0] == 201


async def test_trailer_is_no_header(storing_port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(settings, "api_token", SecretStr("sesame"))
    chunked = b"transfer-encoding: chunked\r\n"
    body = b"%x\r\n%s\r\n0\r\n" % (len(BODY), BODY)
    token = b"authorization: Bearer sesame\r\n"
    assert_problem(await exchange(storing_port, post(chunked, body + token + b"\r\n")), 401)
    assert (await exchange(storing_port, post(chunked + token, body + b"\r\n")))[0] == 201


@pytest.mark.parametrize(
    "sent",
    [
        b"nonsense\r\n\r\n",
        b"GET / HTTP/9.9\r\n\r\n",
        b"GET /\xff HTTP/1.1\r\nhost: a\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n",
        b"GET /healthz HTTP/1.1\r\nhost: a\r\nx y: z\r\n\r\n",
        b"GET /healthz HTTP/1.1\r\nhost: a\r\nx: \x00\r\n\r\n",
        post(b"content-length: 5\r\ntransfer-encoding: chunked\r\n"),
        post(b"content-length: 5\r\ncontent-length: 6\r\n"),
        post(b"content-length: -1\r\n"),
        post(b"content-length: +5\r\n"),
        post(b"transfer-encoding: chunked, identity\r\n"),
        post(b"transfer-encoding: xchunked\r\n"),
        post(b"content-length: " + b"9" * 4301 + b"\r\n"),
        post(b"content-length : 5\r\n"),
        b"GET /healthz HTTP/1.1\r\nhost: a\r\n folded: b\r\n\r\n",
    ],
    ids=range(15),
)
async def test_what_is_not_http_is_a_bad_request(port: int, sent: bytes) -> None:
    async with calling(port) as caller:
        await caller.send(sent)
        assert_problem(await caller.answer(), 400)
        assert await caller.is_cut()


async def test_stop_waits_for_no_half_request(
    app: FastAPI, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(protocol, "STOP_SECONDS", 0.5)
    async with (
        serving(app) as (server, port),
        calling(port) as silent,
        calling(port) as head,
        calling(port) as body,
    ):
        await head.send(b"GET /hea")
        await body.send(post(body=BODY[:5]))
        await asyncio.sleep(0.2)
        began = time.monotonic()
        await stop(server)
        assert time.monotonic() - began < 5
        for caller in (silent, head, body):
            assert await caller.is_cut()


def get(path: bytes = b"/healthz", headers: bytes = HOST, method: bytes = b"GET") -> bytes:
    return method + b" " + path + b" HTTP/1.1\r\n" + headers + b"\r\n"


def narrow(caller: Caller) -> None:
    """Lets the caller's own kernel take little of an answer that nobody reads."""
    caller.writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)


@pytest.fixture
def large(extra: FastAPI) -> bytes:
    """A path whose answer has three megabytes."""

    @extra.get("/large")
    async def read_large() -> Response:
        return Response(b"a" * 3_000_000)

    return b"/large"


async def test_answer_that_nobody_reads_is_given_up(
    app: FastAPI, large: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(protocol, "WRITE_SECONDS", 0.3)
    async with serving(app) as (server, port), calling(port) as caller:
        narrow(caller)
        caller.reader._transport.pause_reading()  # type: ignore[attr-defined]
        await caller.send(get(large))
        await asyncio.sleep(0.1)
        await wait_until_left(server)


async def test_answer_that_is_read_slowly_is_sent_whole(
    port: int, large: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its deadline is for progress, and not for the whole."""
    monkeypatch.setattr(protocol, "WRITE_SECONDS", 0.5)
    async with calling(port) as caller:
        await caller.send(get(large))
        head = await caller.reader.readuntil(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 200")
        began, left = time.monotonic(), 3_000_000
        while left:
            left -= len(await caller.reader.read(min(left, 100_000)))
            await asyncio.sleep(0.04)
        assert time.monotonic() - began > 1


async def test_caller_who_pipelines_and_never_reads_is_not_read_either(
    port: int, large: bytes
) -> None:
    async with calling(port) as caller:
        narrow(caller)
        caller.reader._transport.pause_reading()  # type: ignore[attr-defined]
        sending = asyncio.create_task(caller.send(*[get(large) * 1000] * 1000))
        done, _ = await asyncio.wait([sending], timeout=1)
        assert not done, "60 MB of requests were read"
        sending.cancel()


async def test_pipelined_requests_are_answered_in_order(storing_port: int) -> None:
    async with calling(storing_port) as caller:
        await caller.send((get() + post() + get(b"/nowhere")) * 100)
        for _ in range(100):
            assert [(await caller.answer())[0] for _ in range(3)] == [200, 201, 404]


@pytest.mark.parametrize("rest", [b"\r\n\r\n", b"\r\nX-Y: z\r\n\r\n"])
async def test_head_that_comes_in_parts_behind_a_request_stays_whole(
    port: int, extra: FastAPI, rest: bytes
) -> None:
    """An empty line may be dropped before a request (RFC 9112, 2.2), and nowhere else."""

    @extra.get("/slow")
    async def answer_slowly() -> None:
        await asyncio.sleep(0.3)

    @extra.get("/host")
    async def answer_host(request: Request) -> str | None:
        return request.headers.get("host")

    async with calling(port) as caller:
        await caller.send(get(b"/slow") + b"GET /host HTTP/1.1\r\nHost: localhost")
        assert (await caller.answer())[0] == 200
        await caller.send(rest)
        status, _, body = await caller.answer()
        assert (status, body) == (200, b'"localhost"')


async def test_part_of_a_head_behind_a_request_has_a_deadline(
    port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(protocol, "HEAD_SECONDS", 0.5)
    async with calling(port) as caller:
        await caller.send(get() + b"GET /healthz HT")
        assert (await caller.answer())[0] == 200
        assert_problem(await caller.answer(), 408)


async def test_request_behind_a_last_answer_is_not_run(
    port: int, extra: FastAPI, caplog: pytest.LogCaptureFixture
) -> None:
    ran: list[str] = []

    @extra.post("/stream")
    async def stream() -> StreamingResponse:
        async def parts() -> AsyncIterator[bytes]:
            yield b"begun"
            await asyncio.sleep(0.5)

        return StreamingResponse(parts())

    @extra.get("/next")
    async def be_next() -> None:
        ran.append("next")

    async with calling(port) as caller:
        await caller.send(post(b"Content-Length: 4\r\n", b"").replace(b"/books", b"/stream"))
        head = await caller.reader.readuntil(b"\r\n\r\n")
        assert b"connection: close" in head.lower()
        await caller.send(b"null" + get(b"/next"))
        async with asyncio.timeout(5):
            assert b"HTTP/1.1" not in await caller.reader.read()
    assert ran == []
    assert "Traceback" not in caplog.text


@pytest.mark.parametrize("sent", [b"", b"x", b"{" * 100_000])
async def test_body_after_a_refusal_has_a_deadline(
    app: FastAPI, sent: bytes, token: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(protocol, "REST_SECONDS", 0.3)
    async with serving(app) as (server, port), calling(port) as caller:
        await caller.send(post(b"content-length: 1000000\r\n", b""))
        answer = await caller.answer()
        assert_problem(answer, 401)
        assert answer[1][b"connection"] == b"close"
        await caller.send(sent)
        await wait_until_left(server)


@pytest.mark.parametrize(
    "framing", [b"content-length: 900000\r\n", b"transfer-encoding: chunked\r\n"]
)
async def test_body_after_a_refusal_has_a_limit(port: int, token: None, framing: bytes) -> None:
    async with calling(port) as caller:
        await caller.send(post(framing, b""))
        assert_problem(await caller.answer(), 401)
        sending = asyncio.create_task(caller.send(*[b"1\r\na\r\n" * 10_000] * 1000))
        async with asyncio.timeout(5):
            await sending  # 60 MB: cut long before
        assert await caller.is_cut()


async def test_caller_who_still_sends_can_read_the_refusal(port: int, token: None) -> None:
    """A reset in place of a slow close would take the answer away."""
    for _ in range(5):
        async with calling(port) as caller:
            await caller.send(post(b"content-length: 800000\r\n", b""), *[b"x" * 8000] * 100)
            assert_problem(await caller.answer(), 401)


async def test_refused_request_with_its_whole_body_keeps_the_connection(
    port: int, token: None
) -> None:
    async with calling(port) as caller:
        for _ in range(3):
            await caller.send(post())
            answer = await caller.answer()
            assert_problem(answer, 401)
            assert b"connection" not in answer[1]


@pytest.fixture
def token(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(settings, "api_token", SecretStr("sesame"))


@pytest.mark.parametrize(
    "sent",
    [
        get(b"/\xff", method=b"HEAD"),
        get(headers=b"host: a\r\ncontent-length: 3\r\n", method=b"HEAD") + b"abc",
        get(headers=HOST + b"transfer-encoding: chunked\r\n", method=b"HEAD") + b"zz\r\n",
        get(headers=HOST + b"x y: z\r\n", method=b"HEAD"),
    ],
    ids=range(4),
)
async def test_refused_head_request_is_answered(
    port: int, sent: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    async with calling(port) as caller:
        await caller.send(sent)
        async with asyncio.timeout(5):
            head = await caller.reader.readuntil(b"\r\n\r\n")
    assert head.split()[1] in (b"200", b"400")
    assert not [record for record in caplog.records if record.exc_info]


@pytest.mark.parametrize("digits", [b"0" * 4301, b"0" * 30_000])
async def test_content_length_of_many_digits_is_refused(
    port: int, token: None, digits: bytes
) -> None:
    answer = await exchange(port, post(b"content-length: " + digits + b"\r\n", b""))
    assert answer[0] in (401, 431)
    bearer = b"authorization: Bearer sesame\r\n"
    answer = await exchange(port, post(bearer + b"content-length: " + digits + b"\r\n", b""))
    assert answer[0] in (413, 431)


async def test_other_transfer_encodings_are_not_implemented(port: int) -> None:
    answer = await exchange(port, post(b"transfer-encoding: gzip, chunked\r\n", b"0\r\n\r\n"))
    assert_problem(answer, 501)


@pytest.mark.parametrize(
    "target", [b"http://127.0.0.1/shelves", b"http://127.0.0.1:80/shelves?limit=1"]
)
async def test_absolute_form_is_served(storing_port: int, target: bytes) -> None:
    assert (await exchange(storing_port, get(target, b"host: evil.example\r\n")))[0] == 200


async def test_absolute_form_names_the_host(storing_port: int) -> None:
    """RFC 9112, 3.2.2: `Host` is ignored. A name that is not of this machine is refused."""
    assert_problem(await exchange(storing_port, get(b"http://evil.example/shelves")), 403)
    assert (await exchange(storing_port, get(b"http://evil.example")))[0] == 307


@pytest.mark.parametrize("between", [b"\r\n", b"\r\n\r\n\r\n", b"\n"])
async def test_empty_lines_between_requests_are_none(
    port: int, between: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(protocol, "HEAD_SECONDS", 0.2)
    async with calling(port) as caller:
        for _ in range(2):
            await caller.send(get())
            assert (await caller.answer())[0] == 200
            await caller.send(between)
            await asyncio.sleep(0.3)


@pytest.mark.parametrize("upgrade", [b"h2c", b"websocket", b"nonsense"])
async def test_request_to_upgrade_writes_no_warning(
    port: int, upgrade: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    head = get(headers=HOST + b"connection: upgrade\r\nupgrade: " + upgrade + b"\r\n")
    assert (await exchange(port, head))[0] == 200
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]


async def test_refusal_of_the_protocol_can_be_read_by_a_page_and_found_in_the_log(
    port: int, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(settings, "cors_origins", ["https://app.example.com"])
    with caplog.at_level(logging.INFO, "nutshell.protocol"):
        _, headers, _ = await exchange(port, b"nonsense\r\n\r\n")
    assert headers[b"access-control-allow-origin"] == b"https://app.example.com"
    assert headers[b"x-request-id"].decode() in caplog.text


@pytest.mark.parametrize("size", [15_000, 17_000])
async def test_line_of_a_head_has_the_limit_that_the_refusal_tells(port: int, size: int) -> None:
    for head in (get(headers=HOST + b"x: " + b"y" * size + b"\r\n"), get(b"/" + b"y" * size)):
        status, _, body = await exchange(port, head)
        if size < 16_000:
            assert status in (200, 404)
        else:
            assert status == 431
            assert b"16,000 bytes in each field" in body


async def test_caller_who_half_closes_gets_the_answer(storing_port: int, extra: FastAPI) -> None:
    @extra.get("/slow")
    async def be_slow() -> None:
        await asyncio.sleep(0.2)

    for sent, expected in ((post(), [201]), (get(b"/slow"), [200]), (get() * 3, [200] * 3)):
        async with calling(storing_port) as caller:
            await caller.send(sent)
            caller.writer.write_eof()
            assert [(await caller.answer())[0] for _ in expected] == expected
            assert await caller.is_cut()


async def test_half_a_request_and_the_end_is_cut(port: int) -> None:
    for sent in (b"GET /hea", post(body=BODY[:5])):
        async with calling(port) as caller:
            await caller.send(sent)
            caller.writer.write_eof()
            assert await caller.is_cut()


async def test_stream_outlives_the_silence_that_bodies_may_have_and_ends_with_its_caller(
    extra: FastAPI, port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    ended = asyncio.Event()

    @extra.get("/stream")
    async def stream() -> StreamingResponse:
        async def parts() -> AsyncIterator[bytes]:
            try:
                while True:
                    yield b"one"
                    await asyncio.sleep(0.1)
            finally:
                ended.set()

        return StreamingResponse(parts())

    for name in ("BODY_SILENCE", "BODY_SECONDS"):
        monkeypatch.setattr(middleware, name, 0.2)
    async with calling(port) as caller:
        await caller.send(get(b"/stream"))
        began = time.monotonic()
        while time.monotonic() < began + 0.5:
            assert await caller.reader.read(100)
        assert not ended.is_set()
    async with asyncio.timeout(10):
        await ended.wait()


@pytest.mark.parametrize("abruptly", [False, True])
async def test_event_source_that_goes_away_ends_its_stream_without_a_traceback(
    extra: FastAPI, port: int, caplog: pytest.LogCaptureFixture, abruptly: bool
) -> None:
    ended = asyncio.Event()

    @extra.get("/events", response_class=EventSourceResponse)
    async def stream_events() -> AsyncIterator[ServerSentEvent]:
        try:
            while True:
                yield ServerSentEvent(data="tick")
                await asyncio.sleep(0.02)
        finally:
            ended.set()

    async with calling(port) as caller:
        await caller.send(get(b"/events"))
        await caller.reader.readuntil(b"tick")
        if abruptly:
            caller.writer.transport.abort()
    async with asyncio.timeout(10):
        await ended.wait()
    await asyncio.sleep(0)
    assert not [record for record in caplog.records if record.exc_info]


async def test_stop_waits_for_no_unread_answer(app: FastAPI, large: bytes) -> None:
    async with serving(app) as (server, port), calling(port) as one, calling(port) as many:
        for caller in (one, many):
            narrow(caller)
            caller.reader._transport.pause_reading()  # type: ignore[attr-defined]
        await one.send(get(large))
        await many.send(get(large) * 100)
        began = time.monotonic()
        await stop(server)
        assert time.monotonic() - began < 5


async def test_answers_while_stopping_say_that_they_are_the_last(
    app: FastAPI, extra: FastAPI
) -> None:
    released = asyncio.Event()

    @extra.post("/held")
    async def hold(request: Request) -> None:
        await request.body()
        await released.wait()

    head = post(LENGTH, b"").replace(b"/books", b"/held")
    async with (
        serving(app) as (server, port),
        calling(port) as idle,
        calling(port) as whole,
        calling(port) as late,
    ):
        await idle.send(get())
        assert (await idle.answer())[0] == 200
        await whole.send(head + BODY)
        await late.send(head)
        await asyncio.sleep(0.2)
        stopping = asyncio.create_task(stop(server))
        await asyncio.sleep(0.5)
        assert await idle.is_cut()
        await late.send(BODY)
        released.set()
        for caller in (whole, late):
            status, headers, _ = await caller.answer()
            assert (status, headers[b"connection"]) == (200, b"close")
            assert await caller.is_cut()
        await stopping


async def test_address_of_an_ipv4_caller_is_plain_on_a_socket_for_both(
    app: FastAPI, extra: FastAPI
) -> None:
    @extra.get("/who")
    async def tell(request: Request) -> str:
        return request.client.host if request.client else ""

    if not socket.has_dualstack_ipv6():
        pytest.skip("no IPv6 here")
    with socket.create_server(("", 0), family=socket.AF_INET6, dualstack_ipv6=True) as listener:
        async with serving(app, listener) as (_, port):
            assert (await exchange(port, get(b"/who")))[2] == b'"127.0.0.1"'


async def test_access_is_checked_before_the_content_type(port: int, token: None) -> None:
    head = post().replace(b"application/json", b"text/plain")
    assert_problem(await exchange(port, head), 401)


async def test_keyed_request_whose_body_breaks_off_leaves_no_traceback(
    storing_port: int, caplog: pytest.LogCaptureFixture
) -> None:
    async with calling(storing_port) as caller:
        await caller.send(post(b"idempotency-key: one\r\n" + LENGTH, BODY[:5]))
        caller.writer.write_eof()
        assert await caller.is_cut()
    assert (await exchange(storing_port, get()))[0] == 200
    assert not [record for record in caplog.records if record.exc_info]
