"""HTTP over real connections: limits, deadlines, and what never becomes a request."""

import asyncio
import json
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import uvicorn
from fastapi import FastAPI

from nutshell.tests.fixtures import Pools
from nutshell import middleware, protocol
from nutshell.protocol import HEAD_BYTES, Protocol
from nutshell.settings import settings

BODY = b'{"title": "Notes"}'
HOST = b"host: 127.0.0.1\r\n"
JSON = HOST + b"content-type: application/json\r\n"
LENGTH = b"content-length: %d\r\n" % len(BODY)


@asynccontextmanager
async def serving(app: FastAPI) -> AsyncIterator[tuple[uvicorn.Server, int]]:
    """The app behind the service's own protocol, on a port of its own."""
    config = uvicorn.Config(app, http=Protocol, port=0, ws="none", lifespan="off", log_config=None)
    config.load()
    server = uvicorn.Server(config)
    server.lifespan = config.lifespan_class(config)
    await server.startup()
    running = asyncio.create_task(server.main_loop())
    port = server.servers[0].sockets[0].getsockname()[1]
    try:
        yield server, port
    finally:
        server.should_exit = True
        await running
        async with asyncio.timeout(20):
            await server.shutdown()


@pytest.fixture
async def port(app: FastAPI) -> AsyncIterator[int]:
    async with serving(app) as (_, port):
        yield port


@pytest.fixture
async def storing_port(app: FastAPI, pools: Pools) -> AsyncIterator[int]:
    """The same, with a database behind it."""
    async with serving(app) as (_, port):
        yield port


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
    monkeypatch.setattr(protocol, "HEAD_SECONDS", 0.5)
    request = b"GET /healthz HTTP/1.1\r\n" + HOST + b"\r\n"
    async with calling(port) as caller:
        for _ in range(2):
            await caller.send(request)
            assert (await caller.answer())[0] == 200
            await asyncio.sleep(0.8)


async def test_slow_route_is_not_cut(
    extra: FastAPI, port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    @extra.get("/slow")
    async def be_slow() -> None:
        await asyncio.sleep(0.8)

    monkeypatch.setattr(protocol, "HEAD_SECONDS", 0.5)
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
    from pydantic import SecretStr

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
    from pydantic import SecretStr

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
        post(b"content-length : 5\r\n"),
        b"GET /healthz HTTP/1.1\r\nhost: a\r\n folded: b\r\n\r\n",
    ],
    ids=range(14),
)
async def test_what_is_not_http_is_a_bad_request(port: int, sent: bytes) -> None:
    async with calling(port) as caller:
        await caller.send(sent)
        assert_problem(await caller.answer(), 400)
        assert await caller.is_cut()


async def test_stop_waits_for_no_half_request(app: FastAPI) -> None:
    async with (
        serving(app) as (server, port),
        calling(port) as silent,
        calling(port) as head,
        calling(port) as body,
    ):
        await head.send(b"GET /hea")
        await body.send(post(body=BODY[:5]))
        await asyncio.sleep(0.2)
        server.should_exit = True
        began = time.monotonic()
        await server.shutdown()
        assert time.monotonic() - began < 5
        for caller in (silent, head, body):
            assert await caller.is_cut()
