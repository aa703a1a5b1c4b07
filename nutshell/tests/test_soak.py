"""Ten minutes at saturation: `make soak`, with figures."""

import os
import random
import socket
import time
from collections import Counter, deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from statistics import median

import httpx
import pytest

from nutshell.tests.postgres import Postgres
from nutshell.tests.service import (
    TOKEN,
    Service,
    Variables,
    migrate,
    resident_megabytes,
    sockets,
    workers,
)

pytestmark = pytest.mark.soak

UNREAD = b"GET /openapi.json HTTP/1.1\r\nhost: 127.0.0.1\r\n\r\n"

SECONDS = int(os.environ.get("SOAK_SECONDS", "600"))
SEED = 20300131
CLIENTS = 16
HINDRANCES = 8


def test_load_of_all_verbs(postgres: Postgres) -> None:
    url = postgres.create_database("soak")
    migrate(url)
    variables: Variables = {"DATABASE_URL": url, "API_TOKEN": TOKEN, "WEB_CONCURRENCY": 2}
    statuses: Counter[int] = Counter()
    stop = time.monotonic() + SECONDS

    def mix(number: int) -> None:
        chance = random.Random(SEED + number)
        with service.client() as client:
            turn = 0
            while time.monotonic() < stop:
                turn += 1
                shelf = {"label": f"{number}.{turn}"}
                created = client.post("/shelves", json=shelf)
                book = {"title": "a", "text": "b" * 1000, "shelf_id": created.json()["id"]}
                path = f"/shelves/{created.json()['id']}"
                calls: list[Callable[[], httpx.Response]] = [
                    lambda: client.get(path),  # noqa: B023
                    lambda: client.get("/shelves?limit=20&order=desc"),
                    lambda: client.patch(path, json={"place": "Hall"}),  # noqa: B023
                    lambda: client.post("/books", json=book),  # noqa: B023
                    lambda: client.get("/books?limit=20&order=desc"),
                    lambda: client.post("/books/batch", json=[{"title": "a"}] * 5),
                    lambda: client.get("/books?done=false&limit=5"),
                    lambda: client.post("/shelves", json=shelf),  # noqa: B023
                    lambda: client.post("/books", json={"title": ""}),
                ]
                chance.shuffle(calls)
                responses = [created, *(call() for call in calls), client.delete(path)]
                statuses.update(response.status_code for response in responses)

    def hinder(number: int) -> None:
        """Callers who are silent, slow, gone, read nothing or send on, one after the other."""
        chance = random.Random(SEED - number)
        body = b'{"title": "hindered"}'
        head = (
            b"POST /books HTTP/1.1\r\nhost: 127.0.0.1\r\nauthorization: Bearer %s\r\n"
            b"content-type: application/json\r\ncontent-length: %d\r\n\r\n"
        ) % (TOKEN.encode(), len(body))
        whole = head + body
        refused = head.replace(TOKEN.encode(), b"wrong")
        refused = refused.replace(b"content-length: 21", b"transfer-encoding: chunked")
        unread: deque[socket.socket] = deque()
        while time.monotonic() < stop:
            with (
                suppress(OSError),
                socket.create_connection(("127.0.0.1", service.port), timeout=2) as connection,
            ):
                kind = chance.choice(
                    ["silent", "half", "slow", "gone", "unread", "refused", "half-closed"]
                )
                if kind == "half":
                    connection.sendall(whole[: chance.randrange(1, len(whole))])
                elif kind == "slow":
                    for start in range(0, len(whole), 20):
                        connection.sendall(whole[start : start + 20])
                        time.sleep(0.02)
                elif kind == "gone":
                    connection.sendall(whole)
                    continue  # before the answer comes
                elif kind == "unread":  # sends for as long as it is read, and reads nothing
                    connection.settimeout(0.5)
                    with suppress(OSError):
                        while True:
                            connection.sendall(UNREAD * 1000)
                    unread.append(connection.dup())
                    if len(unread) > 10:
                        unread.popleft().close()
                    continue
                elif kind == "refused":  # drips on after a 401
                    connection.sendall(refused)
                    for _ in range(50):
                        connection.sendall(b"1\r\na\r\n" * 100)
                        time.sleep(0.02)
                elif kind == "half-closed":
                    connection.sendall(whole)
                    connection.shutdown(socket.SHUT_WR)
                connection.recv(1000)
        for left in unread:
            left.close()

    with Service(variables) as service:
        sizes: list[float] = []
        # The listener, and what multiprocessing and the event loop have; then the pools'.
        sockets_before = sum(sockets(pid) for pid in workers(service.process.pid)) + 2 * 9
        with ThreadPoolExecutor(CLIENTS + HINDRANCES) as pool:
            clients = [pool.submit(mix, number) for number in range(CLIENTS)]
            clients += [pool.submit(hinder, number) for number in range(HINDRANCES)]
            began = time.monotonic()
            while not all(client.done() for client in clients):
                time.sleep(1)
                sizes.append(sum(resident_megabytes(pid) for pid in workers(service.process.pid)))
            for client in clients:
                client.result()
        took = time.monotonic() - began
        minute = min(60, len(sizes) // 3)
        first, last = median(sizes[minute : minute + 10]), median(sizes[-10:])
        print(f"{sum(statuses.values())} requests in {took:.0f} s: {dict(statuses)}")
        print(f"memory of both workers after a minute {first:.1f} MB, at the end {last:.1f} MB")
        assert statuses.keys() - {503} == {200, 201, 204, 409, 422}
        assert last < first * 1.1
        held = "SELECT state FROM pg_stat_activity WHERE datname = 'soak'"
        assert {state for (state,) in postgres.execute(held)} == {"idle"}
        for word in (" ERROR ", "Traceback"):
            assert word not in service.log.read_text()
        until = time.monotonic() + 60
        while sum(sockets(pid) for pid in workers(service.process.pid)) > sockets_before:
            assert time.monotonic() < until, "connections of callers are still open"
            time.sleep(1)
