"""A real Citus cluster for the tests: a coordinator and two workers on 127.0.0.1.

It is Debian's PostgreSQL 15 with the extension, which Debian does not have.
"""

from pathlib import Path

from sqlalchemy import URL

from nutshell.tests.postgres import PASSWORD, Postgres

PROGRAMS = Path("/usr/lib/postgresql/15/bin")
EXTENSION = Path("/usr/share/postgresql/15/extension/citus.control")
MISSING = not (EXTENSION.exists() and (PROGRAMS / "initdb").exists())
REASON = "Debian's PostgreSQL 15 with the extension Citus is not installed"


SETTINGS: dict[str, str | int] = {
    "shared_preload_libraries": "citus",
    "wal_level": "logical",
    "max_prepared_transactions": 200,  # a transaction on several nodes is prepared on each
    "citus.node_conninfo": "sslmode=disable",
    # The name of the program: Citus gives its own connections one that begins with "citus".
    "log_line_prefix": "%m [%p] %a ",
}


class Worker(Postgres):
    def __init__(self) -> None:
        super().__init__(programs=PROGRAMS)

    def start(self, **options: str | int) -> None:
        super().start(**SETTINGS | options)

    def add_database(self, name: str) -> None:
        super().create_database(name)
        self.execute("CREATE EXTENSION citus", name)
        # How this node logs in at the others. 0 stands for all of them.
        self.execute(
            f"INSERT INTO pg_dist_authinfo VALUES (0, 'nutshell', 'password={PASSWORD}')", name
        )


class Citus(Worker):
    """The coordinator, which the service talks to."""

    def __init__(self) -> None:
        super().__init__()
        self.workers = [Worker(), Worker()]

    def close(self) -> None:
        for worker in self.workers:
            worker.close()
        super().close()

    def create_database(self, name: str) -> URL:
        for node in (self, *self.workers):
            node.add_database(name)
        self.execute(f"SELECT citus_set_coordinator_host('127.0.0.1', {self.port})", name)
        for worker in self.workers:
            self.execute(f"SELECT citus_add_node('127.0.0.1', {worker.port})", name)
        return self.url(name)
