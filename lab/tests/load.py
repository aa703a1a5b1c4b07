"""Writers and readers who go on whatever happens to the database."""

import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from itertools import pairwise

import httpx

from nutshell.tests.service import BEARER, Service

WRITERS = 16
READERS = 2
BATCH = 10  # rows; the first writer sends batches


class Load:
    """Each book is sent until it is acknowledged, with one key, and lists are read beside that."""

    def __init__(self, service: Service) -> None:
        self.service = service
        self.stop = threading.Event()
        self.acknowledged: list[tuple[float, str]] = []
        self.failures: Counter[int] = Counter()
        self.reads: Counter[int] = Counter()

    @contextmanager
    def running(self) -> Iterator[None]:
        with ThreadPoolExecutor(WRITERS + READERS) as pool:
            calls = [pool.submit(self.write, number) for number in range(WRITERS)]
            calls += [pool.submit(self.read) for _ in range(READERS)]
            try:
                yield
            finally:
                self.stop.set()
            for call in calls:
                call.result()

    def write(self, writer: int) -> None:
        number = 0
        with self.client() as client:
            while not self.stop.is_set():
                number += 1
                titles = [f"{writer}.{number}.{row}" for row in range(1 if writer else BATCH)]
                books = [{"title": title} for title in titles]
                key = {"idempotency-key": titles[0]}
                while True:
                    if writer:
                        answer = client.post("/books", json=books[0], headers=key)
                    else:
                        answer = client.post("/books/batch", json=books, headers=key)
                    if answer.status_code == 201:
                        break
                    self.failures[answer.status_code] += 1
                    if self.stop.is_set():
                        return
                    time.sleep(0.1)
                now = time.monotonic()
                self.acknowledged += [(now, title) for title in titles]
                time.sleep(0.02)

    def read(self) -> None:
        with self.client() as client:
            while not self.stop.is_set():
                self.reads[client.get("/books?limit=5").status_code] += 1
                time.sleep(0.05)

    def client(self) -> httpx.Client:
        return httpx.Client(base_url=self.service.url, headers=BEARER, timeout=30)

    def goes_on(self, since: float) -> bool:
        return sum(when > since for when, _ in self.acknowledged) > 2 * WRITERS

    def silence(self, since: float) -> float:
        """The longest time without an acknowledged row."""
        times = sorted(when for when, _ in self.acknowledged if when > since)
        return max(later - earlier for earlier, later in pairwise(times))

    def check(self, stored: list[str]) -> None:
        """What was acknowledged is stored, and nothing twice or in part. All failed reads were a 503."""
        acknowledged = {title for _, title in self.acknowledged}
        print(
            f"{len(acknowledged)} rows acknowledged, {len(stored)} stored;"
            f" failed writes {dict(self.failures)}; reads {dict(self.reads)}"
        )
        assert acknowledged <= set(stored), "an acknowledged row is lost"
        assert len(stored) == len(set(stored)), "a row is there twice"
        batches = Counter(title.rpartition(".")[0] for title in stored if title.startswith("0."))
        assert set(batches.values()) == {BATCH}, "half of a batch is there"
        assert self.reads.keys() <= {200, 503}
