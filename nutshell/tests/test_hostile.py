"""What no client should send, over real connections: a clear refusal, and the process lives on."""

import json
import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from nutshell.middleware import MAX_BODY
from nutshell.tests.service import TOKEN, Service, resident_megabytes

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    folder = tmp_path_factory.mktemp("hostile")
    variables = {"DATABASE_URL": f"sqlite:///{folder}/test.db", "API_TOKEN": TOKEN}
    with Service(dict(variables)) as service:
        yield service
        assert service.log.read_text().count("Started server process") == 1
        assert " ERROR " not in service.log.read_text()


def exchange(service: Service, *parts: bytes, pause: float = 0) -> bytes:
    """Sends the parts and returns what comes back until the server closes or answers."""
    with socket.create_connection(("127.0.0.1", service.port), timeout=20) as connection:
        try:
            for part in parts:
                connection.sendall(part)
                time.sleep(pause)
        except (BrokenPipeError, ConnectionResetError):
            pass  # it has answered, and does not want the rest
        answer = b""
        try:
            while not complete(answer):
                data = connection.recv(65536)
                if not data:
                    break
                answer += data
        except ConnectionResetError:
            pass
        return answer


def complete(answer: bytes) -> bool:
    head, end, body = answer.partition(b"\r\n\r\n")
    length = [line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:")]
    return bool(end) and (not length or len(body) >= int(length[0].split(b":")[1]))


def request(
    path: bytes = b"/books",
    body: bytes = b"",
    headers: bytes = b"",
    method: bytes = b"POST",
    length: int | None = None,
) -> bytes:
    return (
        b"%s %s HTTP/1.1\r\nhost: 127.0.0.1\r\nauthorization: Bearer %s\r\n"
        b"content-type: application/json\r\ncontent-length: %d\r\n%s\r\n%s"
    ) % (method, path, TOKEN.encode(), len(body) if length is None else length, headers, body)


def status(answer: bytes) -> int:
    assert answer.startswith(b"HTTP/1.1 "), answer[:200]
    return int(answer.split(b" ", 2)[1])


def problem(answer: bytes) -> int:
    head, _, body = answer.partition(b"\r\n\r\n")
    assert b"application/problem+json" in head, answer[:300]
    assert json.loads(body)["status"] == status(answer)
    return status(answer)


@pytest.fixture(autouse=True)
def lives_on(service: Service) -> Iterator[None]:
    yield
    assert service.process.poll() is None
    assert status(exchange(service, request(b"/healthz", method=b"GET"))) == 200


@pytest.mark.parametrize(
    "body",
    [
        b"not JSON",
        b"[" * 100_000,
        b"[" * 100_000 + b"]" * 100_000,
        b'{"a":' * 100_000 + b"1" + b"}" * 100_000,
        b'{"title": ' + b"[" * 50_000 + b"]" * 50_000 + b"}",
        b"\xef\xbb\xbf" + b'{"title": ""}',
        b'{"title": NaN}',
        b'{"title": "\\ud800"}',
        b'{"title": "\x00"}',
        b'{"title": "\\u0000"}',
        b'{"title": "a", "shelf_id": 1' + b"0" * 10_000 + b"}",
        b'{"title": "a", "shelf_id": 1e999}',
        b'{"title": "a", "shelf_id": 1.5}',
        b"\xff\xfe{\x00}\x00",
        b"\x1f\x8b\x08\x00",
        '{"title": ""}'.encode("utf-16"),
        '{"title": ""}'.encode("utf-32"),
    ],
    ids=range(17),
)
def test_senseless_body_is_refused(service: Service, body: bytes) -> None:
    for path in (b"/books", b"/books/batch", b"/shelves"):
        assert problem(exchange(service, request(path, body))) in (400, 422)


def test_repeated_key_takes_the_last_and_byte_order_mark_is_read(service: Service) -> None:
    answer = exchange(service, request(body=b'{"title": "first", "title": "last"}'))
    assert status(answer) == 201
    assert b'"last"' in answer
    answer = exchange(service, request(body=b"\xef\xbb\xbf" + b'{"title": "marked"}'))
    assert status(answer) in (201, 422)


def test_gigabyte_by_declaration_is_too_large(service: Service) -> None:
    began = time.monotonic()
    answer = exchange(service, request(length=10**9), b" " * 1000)
    assert problem(answer) == 413
    assert time.monotonic() - began < 5


def test_gigabyte_by_drip_is_too_large(service: Service) -> None:
    head = request(length=0).replace(b"content-length: 0", b"transfer-encoding: chunked")
    chunk = b"10000\r\n" + b" " * 0x10000 + b"\r\n"
    answer = exchange(service, head, *([chunk] * (2 * MAX_BODY // 0x10000)))
    assert problem(answer) == 413


def test_slow_client_is_served_in_the_end(service: Service) -> None:
    whole = request(body=b'{"title": "slow"}')
    answer = exchange(service, *(whole[i : i + 8] for i in range(0, len(whole), 8)), pause=0.05)
    assert status(answer) == 201


@pytest.mark.parametrize(
    "path",
    [
        b"/shelves/\xff",
        b"/shelves/%00",
        b"/shelves/%ff%fe",
        b"/shelves/1%2F..%2F..",
        b"/../../etc/passwd",
        b"/shelves/" + b"9" * 30_000,
        b"/" + b"a" * 60_000,
        b"/shelves?" + b"a=1&" * 5_000,
        b"/shelves?title=%00",
        b"/shelves?title=%ED%A0%80",
        b"/shelves?limit=%31%30%30%30",
        b"//shelves",
        b"/shelves/1;drop table shelves",
    ],
    ids=range(13),
)
def test_senseless_path_is_refused(service: Service, path: bytes) -> None:
    answer = exchange(service, request(path, method=b"GET"))
    assert status(answer) in (307, 400, 404, 414, 422, 431), answer[:200]


@pytest.mark.parametrize(
    "head",
    [
        b"GET / HTTP/9.9\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        b"G\x00T / HTTP/1.1\r\n\r\n",
        b"GET /shelves HTTP/1.1\r\nhost: a\r\nx: \x00\r\n\r\n",
        b"GET /shelves HTTP/1.1\r\nhost: a\r\nx y: z\r\n\r\n",
        b"GET /shelves HTTP/1.1\r\nhost: a\r\nx: " + b"y" * 200_000 + b"\r\n\r\n",
        b"POST /books HTTP/1.1\r\nhost: a\r\ncontent-length: -1\r\n\r\n",
        b"POST /books HTTP/1.1\r\nhost: a\r\ncontent-length: 1" + b"0" * 30 + b"\r\n\r\n",
        b"POST /books HTTP/1.1\r\nhost: a\r\ncontent-length: 5\r\ntransfer-encoding: chunked\r\n\r\n",
        b"POST /books HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n",
    ],
    ids=range(10),
)
def test_senseless_head_is_refused(service: Service, head: bytes) -> None:
    answer = exchange(service, head)
    assert status(answer) in (400, 401, 408, 431), answer[:200]


def test_raw_bytes_in_headers_are_refused_or_ignored(service: Service) -> None:
    for headers, expected in [
        (b"idempotency-key: \xff\xfe\r\n", {400}),
        (b"if-none-match: \xff\r\n", {201, 422}),
        (b"x-request-id: \xff\r\n", {201, 422}),
        (b"accept: \xff/\xfe\r\n", {201, 422}),
        (b"authorization: Bearer \xff\r\n", {201, 401}),
        (b"content-type: \xff\r\n", {201, 422}),
        (b"origin: \xff\r\n", {201}),
        (b"x-forwarded-proto: \xff\r\nx-forwarded-for: \xff\r\n", {201}),
    ]:
        answer = exchange(service, request(body=b'{"title": "raw"}', headers=headers))
        assert status(answer) in expected, (headers, answer[:200])
    host = request(body=b'{"title": "raw"}').replace(b"host: 127.0.0.1", b"host: \xff<>\"'")
    assert status(exchange(service, host)) in (201, 400)


def test_client_that_hangs_up_costs_nothing(service: Service, tmp_path: Path) -> None:
    for _ in range(50):
        with socket.create_connection(("127.0.0.1", service.port)) as connection:
            connection.sendall(request(length=1000, body=b'{"title": "half'))
    for _ in range(50):
        with socket.create_connection(("127.0.0.1", service.port)) as connection:
            connection.sendall(request(body=b'{"title": "whole"}'))
    answer = exchange(service, request(b"/readyz", method=b"GET"))
    assert status(answer) == 200


def test_answers_tell_no_versions(service: Service) -> None:
    for path in (b"/shelves", b"/nowhere", b"/shelves/x", b"/healthz"):
        head, _, _ = exchange(service, request(path, method=b"GET")).partition(b"\r\n\r\n")
        names = {line.split(b":")[0].lower() for line in head.split(b"\r\n")[1:]}
        assert not names & {b"server", b"x-powered-by", b"via"}


def test_silent_callers_cost_little_and_are_left(tmp_path: Path) -> None:
    variables = {"DATABASE_URL": f"sqlite:///{tmp_path}/test.db", "API_TOKEN": TOKEN}
    with Service(dict(variables)) as service:
        before = resident_megabytes(service.process.pid)
        with ExitStack() as stack:
            callers = [
                stack.enter_context(socket.create_connection(("127.0.0.1", service.port)))
                for _ in range(2000)
            ]
            for caller in callers[:500]:
                caller.sendall(b"GET /hea")
            for caller in callers[500:600]:
                caller.sendall(request(length=100, body=b"{"))
            time.sleep(1)
            more = resident_megabytes(service.process.pid) - before
            assert status(exchange(service, request(b"/healthz", method=b"GET"))) == 200
            print(f"2,000 silent callers: {more:.0f} MB more")
            assert more < 60
            deadline = time.monotonic() + 15
            for caller in callers[:500] + callers[600:]:
                caller.settimeout(max(0.1, deadline - time.monotonic()))
                while caller.recv(1000):
                    pass
            began = time.monotonic()
            service.process.terminate()
            service.process.wait(10)
            print(f"SIGTERM, with 100 half bodies: {time.monotonic() - began:.1f} s")
            assert time.monotonic() - began < 5
