"""A distributed database: the service, its release and its tests, unchanged, on Citus."""

import re
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

import httpx
import pytest

from lab.tests.citus import MISSING, REASON, Citus
from lab.tests.load import Load
from lab.tests.on_citus import distribute
from nutshell.tests.postgres import Postgres, wait_until
from nutshell.tests.service import (
    ROOT,
    TOKEN,
    Service,
    Variables,
    frozen,
    migrate,
    workers,
)

pytestmark = [
    pytest.mark.timeout(900),
    pytest.mark.skipif(MISSING, reason=REASON),
]

# What does not apply.
COUNTS_STATEMENTS = "the log shows each statement on a reference table twice"
REFERS_TO_DISTRIBUTED = "Citus refuses a foreign key from a local table to a distributed one"
WAITS_ELSEWHERE = "the transaction waits at a worker, and the view asks the coordinator"
DESELECTED = {
    "tests/test_conditional.py::test_change_locks_the_row_before_it_compares[postgresql-/shelves": (
        COUNTS_STATEMENTS
    ),
    "tests/test_cost.py::test_request_costs_no_more": COUNTS_STATEMENTS,
    "tests/test_snapshot.py::test_snapshot_is_one_transaction_and_leaves": COUNTS_STATEMENTS,
    "tests/test_snapshot.py::test_snapshot_that_fails_gives_its_connection_back": COUNTS_STATEMENTS,
    "tests/test_snapshot.py::test_page_after_another_statement_takes_its": COUNTS_STATEMENTS,
    "tests/test_session.py::test_create_is_one_transaction_with_one_statement": COUNTS_STATEMENTS,
    "tests/test_errors.py::test_row_that_others_refer_to_cannot_be_deleted": REFERS_TO_DISTRIBUTED,
    "tests/test_errors.py::test_constraint_of_another_application_conflicts_too": REFERS_TO_DISTRIBUTED,
    "live/tests/test_live.py::test_wait_for_a_row": WAITS_ELSEWHERE,
    "live/tests/test_live.py::test_wait_for_a_value": WAITS_ELSEWHERE,
}
# Every fast test that has a database, and the races: all but SQLite's own.
SELECTED = "postgresql and not sqlite and not soak and (not slow or test_races and not sixty_four)"


def test_all_tests_with_a_database_pass() -> None:
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-p",
        "no:cacheprovider",
        "-p",
        "lab.tests.citus_plugin",
    ]
    command += ["-k", SELECTED]
    for name in DESELECTED:
        command += ["--deselect", f"nutshell/{name}"]
    done = subprocess.run(
        command,
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=800,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-20_000:] + done.stderr
    passed = re.search(r"(\d+) passed", done.stdout)
    assert passed is not None
    print(f"{passed[0]}, {len(DESELECTED)} names deselected")
    assert int(passed[1]) > 400


@pytest.fixture(scope="module")
def cluster() -> Iterator[Citus]:
    cluster = Citus()
    yield cluster
    cluster.close()


@contextmanager
def killed(server: Postgres) -> Iterator[None]:
    server.kill()
    yield
    server.start()


def test_lost_worker_loses_nothing(cluster: Citus) -> None:
    url = cluster.create_database("app")
    migrate(url)
    distribute(url)
    variables: Variables = {"DATABASE_URL": url, "API_TOKEN": TOKEN, "WEB_CONCURRENCY": 2}
    with Service(variables) as service:
        processes = [service.process.pid, *workers(service.process.pid)]
        load = Load(service)
        with load.running(), service.client() as client:
            for incident in (killed, frozen):
                time.sleep(2)
                wait_until(partial(load.goes_on, time.monotonic() - 1))
                writes, lists = load.failures.total(), load.reads[503]
                with incident(cluster.workers[0]):
                    time.sleep(6)
                    # It is on every worker.
                    assert client.post("/shelves", json={"label": "Top"}).status_code == 503
                    # It asks the coordinator alone.
                    assert client.get("/readyz").status_code == 200
                    writes = load.failures.total() - writes
                    lists = load.reads[503] - lists
                back = time.monotonic()
                wait_until(partial(load.goes_on, back))
                took = time.monotonic() - back
                print(
                    f"{incident.__name__}: {writes} writes and {lists} lists failed; {took:.1f} s"
                )
                assert writes
                assert lists
        assert [service.process.pid, *workers(service.process.pid)] == processes
        assert httpx.get(f"{service.url}/readyz").status_code == 200
        assert " ERROR " not in service.log.read_text()
    load.check([title for (title,) in cluster.execute("SELECT title FROM books", "app")])
    # 409: the first request with the key is still under way, on a coordinator that waits for the
    # frozen worker.
    assert load.failures.keys() <= {503, 409}
