"""Fixtures that replace shared ones, so that the other tests run on a Citus cluster."""

import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import psycopg
import pytest
from sqlalchemy import URL

from nutshell.tests.fixtures import Pools, Wire
from lab.tests.citus import Citus

OF_THE_SERVICE = (Path(__file__).parents[1] / "citus.sql").read_text()
# A table of its own cannot refer to a distributed one, so loans lose their books.
OF_THE_LIBRARY = """
SET LOCAL citus.shard_count = 4;
SELECT create_reference_table('shelves');
ALTER TABLE loans DROP CONSTRAINT fk_loans_book_id_books;
SELECT create_distributed_table('books', 'id');
DO $$ BEGIN
    EXECUTE format(
        'ALTER DATABASE %I SET citus.multi_shard_modify_mode = sequential', current_database()
    );
END $$;
"""


@cache
def distribute(url: URL) -> None:
    """Distributes the tables of a migrated database, of either floor."""
    conninfo = url.set(drivername="postgresql").render_as_string(hide_password=False)
    with psycopg.connect(conninfo, autocommit=True) as connection:
        library = connection.execute("SELECT to_regclass('books')").fetchone() != (None,)
        connection.execute((OF_THE_LIBRARY if library else OF_THE_SERVICE).encode())


class CitusWire(Wire):
    def read_log(self) -> str:
        """Without what the servers of the cluster say to each other."""
        return re.sub(r"(?m)^\S+ \S+ \S+ \[\d+\] (?i:citus).*\n", "", super().read_log())


@pytest.fixture(scope="session")
def postgres() -> Iterator[Citus]:
    cluster = Citus()
    yield cluster
    cluster.close()


@pytest.fixture
def url(url: URL) -> URL:
    if url.get_backend_name() == "postgresql":
        distribute(url)
    return url


@pytest.fixture
def wire(pools: Pools, url: URL, request: pytest.FixtureRequest) -> Wire:
    sqlite = url.get_backend_name() == "sqlite"
    return CitusWire(pools, None if sqlite else request.getfixturevalue("postgres"))
