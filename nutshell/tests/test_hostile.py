"""What no client should send, over real connections: a clear refusal, and the process lives on."""

import json
import os
import random
import re
import socket
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from pathlib import Path

import pytest

from nutshell.middleware import MAX_BODY
from nutshell.settings import LIVE_VIEW
from nutshell.tests.service import TOKEN, Service, Variables, resident_megabytes, sockets

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
        assert problem(exchange(service, request(path, body))) in (400, 413, 422)


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


def connect(service: Service) -> socket.socket:
    return socket.create_connection(("127.0.0.1", service.port), timeout=20)


def wait_for_connections(service: Service, most: int, seconds: float) -> float:
    began = time.monotonic()
    while sockets(service.process.pid) > most:
        assert time.monotonic() < began + seconds, f"{sockets(service.process.pid)} are still open"
        time.sleep(0.2)
    return time.monotonic() - began


def flood(caller: socket.socket, data: bytes, seconds: float) -> int:
    """The bytes that the service, or the kernel, takes before it takes no more."""
    caller.settimeout(1)
    sent, until = 0, time.monotonic() + seconds
    try:
        while time.monotonic() < until:
            sent += caller.send(data)
    except OSError:  # it does not read, or has closed
        pass
    return sent


def health(service: Service) -> float:
    began = time.monotonic()
    assert status(exchange(service, request(b"/healthz", method=b"GET"))) == 200
    return time.monotonic() - began


@pytest.fixture
def alone(tmp_path: Path) -> Iterator[Service]:
    """A service that no other test has called."""
    with Service({"DATABASE_URL": f"sqlite:///{tmp_path}/test.db", "API_TOKEN": TOKEN}) as service:
        health(service)
        yield service
        assert "Traceback" not in service.log.read_text()


def test_callers_who_never_read_cost_little_and_are_left(alone: Service) -> None:
    pipelined = b"GET /openapi.json HTTP/1.1\r\nhost: 127.0.0.1\r\n\r\n" * 1000
    exchange(alone, request(b"/openapi.json", method=b"GET"))  # made once
    before, open_before = resident_megabytes(alone.process.pid), sockets(alone.process.pid)
    with ExitStack() as stack:
        callers = [stack.enter_context(connect(alone)) for _ in range(20)]
        for caller in callers:
            caller.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        sent = [flood(caller, pipelined, 3) for caller in callers[:5]]
        for caller in callers[5:]:
            flood(caller, pipelined, 0.1)
        more = resident_megabytes(alone.process.pid) - before
        quick = max(health(alone) for _ in range(20))
        took = wait_for_connections(alone, open_before, 60)
        print(
            f"20 callers who never read: {more / 20:.2f} MB each, at most {max(sent) / 1e6:.1f} MB"
            f" sent by one; /healthz within {quick:.2f} s; gone after {took:.0f} s"
        )
        assert more / 20 < 2


def test_bodies_after_a_refusal_are_left(alone: Service) -> None:
    refused = request(length=10**6, body=b"x").replace(TOKEN.encode(), b"wrong")
    chunked = refused.replace(b"content-length: 1000000", b"transfer-encoding: chunked")[:-1]
    open_before = sockets(alone.process.pid)
    with ExitStack() as stack:
        silent = [stack.enter_context(connect(alone)) for _ in range(120)]
        for caller in silent:
            caller.sendall(refused)
        gone = wait_for_connections(alone, open_before, 40)
        one = stack.enter_context(connect(alone))
        one.sendall(chunked)
        taken = []
        flooding = threading.Thread(
            target=lambda: taken.append(flood(one, b"1\r\na\r\n" * 10_000, 3))
        )
        flooding.start()
        quick = max(health(alone) for _ in range(20))
        flooding.join()
        print(
            f"120 callers silent after a 401: gone after {gone:.0f} s; chunks of one byte after"
            f" one: cut after {taken[0] / 1e6:.1f} MB, /healthz within {quick:.2f} s meanwhile"
        )
        assert taken[0] < 20_000_000
        assert quick < 1


def test_sigterm_waits_for_none_of_them(alone: Service) -> None:
    refused = request(length=10**6, body=b"x").replace(TOKEN.encode(), b"wrong")
    with ExitStack() as stack:
        for _ in range(20):
            caller = stack.enter_context(connect(alone))
            caller.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            flood(caller, request(b"/openapi.json", method=b"GET") * 100, 0.1)
            stack.enter_context(connect(alone)).sendall(refused)
            stack.enter_context(connect(alone)).sendall(refused[:50])
            stack.enter_context(connect(alone))
        began = time.monotonic()
        alone.process.terminate()
        alone.process.wait(20)
        print(f"SIGTERM beside 80 such callers: {time.monotonic() - began:.1f} s")
        assert time.monotonic() - began < 5


MUTATIONS = int(os.environ.get("FUZZ_EXAMPLES", "2000"))
SEED = int(os.environ.get("FUZZ_SEED", "20300131"))
VALID = [
    request(b"/healthz", method=b"GET"),
    request(b"/shelves?limit=5&sort=id", method=b"GET", headers=b"accept-encoding: gzip\r\n"),
    request(b"/docs", method=b"HEAD"),
    request(body=b'{"title": "fuzzed"}', headers=b'idempotency-key: "one"\r\n'),
    request(b"/books/1", method=b"PATCH", body=b'{"title": "a"}', headers=b"if-match: *\r\n"),
    request(b"/books/1", method=b"PATCH", body=b"{}", headers=b"expect: 100-continue\r\n"),
    request(
        b"/shelves", headers=b"connection: upgrade\r\nupgrade: h2c\r\n", body=b'{"label": "a"}'
    ),
    request(length=0).replace(b"content-length: 0", b"transfer-encoding: chunked")
    + b'5\r\n{"tit\r\ne\r\nle": "chunked"}\r\n0\r\nx: y\r\n\r\n',
    b"GET http://127.0.0.1/shelves HTTP/1.1\r\nhost: a\r\n\r\n",
]
PIECES = [b"\r\n", b"\r\n\r\n", b"\0", b"\xff", b" ", b":", b"%00", b"%", b"/", b"?", b"9" * 4301]
PIECES += [
    b"HEAD ",
    b"HTTP/1.0",
    b"content-length: 5\r\n",
    b"transfer-encoding: chunked\r\n",
    b"0\r\n",
]


def mutate(chance: random.Random) -> bytes:
    data = bytearray(chance.choice(VALID))
    for _ in range(chance.randint(1, 4)):
        at = chance.randrange(len(data) + 1)
        kind = chance.randrange(5)
        if kind == 0:
            data[at : at + chance.randint(1, 20)] = b""
        elif kind == 1:
            data[at:at] = chance.choice(PIECES)
        elif kind == 2 and at < len(data):
            data[at] = chance.randrange(256)
        elif kind == 3:
            data[at:at] = data[at : at + chance.randint(1, 50)] * chance.randint(1, 3)
        else:
            data += chance.choice(VALID)
    return bytes(data)


@pytest.mark.parametrize(
    "trace",
    [0, pytest.param(1, marks=pytest.mark.skipif(not LIVE_VIEW.exists(), reason="it was deleted"))],
)
def test_mutated_requests_do_no_harm(tmp_path: Path, trace: int) -> None:
    variables: Variables = {"DATABASE_URL": f"sqlite:///{tmp_path}/test.db", "API_TOKEN": TOKEN}
    chance = random.Random(SEED + trace)
    seen: Counter[bytes] = Counter()
    with Service(variables | {"TRACE": trace}) as service:
        for number in range(MUTATIONS):
            data = mutate(chance)
            with connect(service) as caller, suppress(ConnectionError):
                caller.sendall(data)
                caller.shutdown(socket.SHUT_WR)  # the answers end when all has been answered
                answers = b""
                while part := caller.recv(65536):
                    answers += part
                statuses = re.findall(rb"HTTP/1\.1 (\d{3}) ", answers)
                seen.update(statuses)
                assert not [s for s in statuses if s[:1] == b"5" and s != b"501"], data
            if number % 100 == 0:
                health(service)
        health(service)
        log = service.log.read_text()
        print(f"{MUTATIONS} mutations, TRACE={trace}: {dict(seen)}")
        assert log.count("Started server process") == 1
        for word in ("Traceback", " ERROR ", " WARNING "):
            assert word not in log, log[log.index(word) - 500 :][:3000]
