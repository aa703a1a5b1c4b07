"""A restart, as clients see it who post on connections that they keep."""

import sqlite3
import threading
import time
from collections import Counter
from pathlib import Path

import httpx
import pytest

from nutshell.tests.postgres import free_port
from nutshell.tests.service import BEARER, TOKEN, Service, Variables

CLIENTS = 12
REQUESTS = 50


@pytest.mark.slow
def test_restart_loses_no_answer(tmp_path: Path) -> None:
    """A post that got no answer was not read, so that its repeat makes no second row."""
    port = free_port()
    variables: Variables = {"DATABASE_URL": f"sqlite:///{tmp_path}/test.db", "API_TOKEN": TOKEN}
    answered: list[str] = []
    broken: Counter[str] = Counter()

    def post(number: int) -> None:
        url = f"http://127.0.0.1:{port}"
        with httpx.Client(base_url=url, headers=BEARER, timeout=30) as client:
            for turn in range(REQUESTS):
                title = f"{number}.{turn}"
                while True:
                    try:
                        answer = client.post("/books", json={"title": title})
                    except httpx.TransportError as error:
                        broken[type(error).__name__] += 1
                        time.sleep(0.1)
                    else:
                        break
                assert answer.status_code == 201, answer.text
                answered.append(title)
                time.sleep(0.02)

    def wait_for(count: int) -> None:
        until = time.monotonic() + 60
        while len(answered) < count:
            assert time.monotonic() < until
            time.sleep(0.01)

    threads = [threading.Thread(target=post, args=(number,)) for number in range(CLIENTS)]
    with Service(variables, port=port):
        for thread in threads:
            thread.start()
        wait_for(150)
    with Service(variables, port=port):
        wait_for(400)
    with Service(variables, port=port):
        for thread in threads:
            thread.join(60)
    with sqlite3.connect(tmp_path / "test.db") as database:
        stored = Counter(title for (title,) in database.execute("SELECT title FROM books"))
    print(f"{len(answered)} answered, {sum(stored.values())} stored, without an answer: {broken}")
    assert len(answered) == CLIENTS * REQUESTS
    assert set(stored) == set(answered)
    assert set(stored.values()) == {1}
