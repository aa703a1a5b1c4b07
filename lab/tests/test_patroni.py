"""A cluster that heals itself: Patroni puts another PostgreSQL in the place of a lost one."""

import time
from collections.abc import Callable
from functools import partial

import httpx
import pytest

from lab.tests.load import Load
from lab.tests.patroni import TTL, Node, Patroni, may_run
from nutshell.tests.service import TOKEN, Service, Variables, migrate, workers

pytestmark = [
    pytest.mark.timeout(600),
    pytest.mark.skipif(
        not may_run(), reason="PostgreSQL does not run as root, and others cannot read this Python"
    ),
]

INCIDENTS: dict[str, Callable[[Node], None]] = {
    "PostgreSQL of the leader killed": Node.kill_postgres,
    "the leader and its Patroni killed": Node.kill,
    "switchover": Node.give_up_leading,
    "the leader frozen": Node.freeze,
}


def test_another_node_takes_over_and_no_acknowledged_row_is_lost() -> None:
    table = []
    with Patroni() as cluster:
        cluster.execute("CREATE DATABASE app")
        migrate(cluster.url("app"))
        variables: Variables = {
            "DATABASE_URL": cluster.url("app"),
            "API_TOKEN": TOKEN,
            "WEB_CONCURRENCY": 2,
        }
        with Service(variables) as service:
            processes = [service.process.pid, *workers(service.process.pid)]
            load = Load(service)
            with load.running():
                for name, strike in INCIDENTS.items():
                    time.sleep(2)
                    leader = cluster.leader()
                    assert leader is not None
                    cluster.wait(partial(load.goes_on, time.monotonic() - 1), 10)
                    began, failed = time.monotonic(), load.failures.total()
                    strike(leader)
                    cluster.wait_for_another_leader(leader)
                    cluster.wait(partial(load.goes_on, time.monotonic()), 10)
                    leader.revive()
                    cluster.wait_until_whole()
                    time.sleep(2)
                    table.append((name, load.silence(began - 1), load.failures.total() - failed))
            assert [service.process.pid, *workers(service.process.pid)] == processes
            assert httpx.get(f"{service.url}/readyz").status_code == 200
            assert " ERROR " not in service.log.read_text()
        for name, silence, failed in table:
            print(f"{name:35} {silence:4.1f} s without an acknowledged row, {failed} times 503")
        load.check([title for (title,) in cluster.execute("SELECT title FROM books", "app")])
    assert load.failures.keys() == {503}
    assert max(silence for _, silence, _ in table) < TTL + 10
