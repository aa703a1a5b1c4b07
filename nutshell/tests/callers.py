"""Callers who go on while the services behind their back are replaced, as behind a router."""

import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from itertools import count

import httpx

from nutshell.tests.postgres import wait_until
from nutshell.tests.service import Service

CALLERS = 12
CALLS = 100  # of each, at least


class Callers:
    """Each writes and reads in turn, at one of the services after the other."""

    def __init__(self, *services: Service, token: str) -> None:
        self.services = list(services)
        self.token = token
        self.lock = threading.Lock()
        self.under_way: Counter[str] = Counter()
        self.failed: list[str] = []
        self.made = self.written = 0
        self.done = threading.Event()

    @contextmanager
    def running(self) -> Iterator[None]:
        with ThreadPoolExecutor(CALLERS) as pool:
            jobs = [pool.submit(self.call, number) for number in range(CALLERS)]
            try:
                yield
            finally:
                self.done.set()
            for job in jobs:
                job.result()
        assert self.failed == []
        assert self.made >= CALLERS * CALLS

    def call(self, caller: int) -> None:
        with httpx.Client(timeout=30) as client:
            for number in count():
                if number >= CALLS and self.done.is_set():
                    return
                with self.lock:
                    service = self.services[(caller + number) % len(self.services)]
                    headers = {"authorization": f"Bearer {self.token}"}
                    self.under_way[service.url] += 1
                url = f"{service.url}/books"
                try:
                    if number % 2:
                        answer = client.get(f"{url}?limit=3", headers=headers)
                    else:
                        book = {"title": f"{caller}.{number}"}
                        answer = client.post(url, json=book, headers=headers)
                    if answer.status_code != (200 if number % 2 else 201):
                        self.failed.append(f"{answer.status_code} {answer.text}")
                except httpx.HTTPError as error:
                    self.failed.append(repr(error))
                with self.lock:
                    self.under_way[service.url] -= 1
                    self.made += 1
                    self.written += not number % 2
                time.sleep(0.02)

    def go_to(self, *services: Service) -> None:
        """Returns when nobody waits for any other service any more."""
        with self.lock:
            self.services = list(services)
        urls = {service.url for service in services}
        wait_until(lambda: not any(self.under_way[url] for url in self.under_way.keys() - urls), 60)

    def wait_for(self, calls: int) -> None:
        wait_until(lambda: self.made >= calls, timeout=200)
