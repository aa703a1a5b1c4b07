"""`make run`: the service restarts when its sources change, and does not apply migrations."""

import os
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from nutshell.tests.postgres import wait_until
from nutshell.tests.service import Service, Variables, alembic, copy_library

pytestmark = pytest.mark.slow

STARTED = "Application startup complete"
LATER = """
from alembic import op

revision, down_revision = "0002", "0001"

def upgrade() -> None:
    op.execute("CREATE TABLE later (id INTEGER)")
"""


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    tree = copy_library(tmp_path / "tree")
    (tree / ".venv/lib").mkdir(parents=True)
    return tree


@pytest.fixture
def service(tree: Path) -> Iterator[Service]:
    variables: Variables = {"DATABASE_URL": f"sqlite:///{tree}/test.db"}
    with Service(variables, tree=tree, reload=True) as service:
        yield service


def test_start_says_where_everything_is(service: Service) -> None:
    url = service.url
    assert f"Listening on {url}, documentation {url}/docs" in service.log.read_text()


def test_sources_are_watched_and_tests_are_not(service: Service, tree: Path) -> None:
    def starts() -> int:
        return service.log.read_text().count(STARTED)

    time.sleep(2)  # on a busy machine, the watcher still reports how the tree was made
    first = starts()
    for path in (*tree.rglob("tests/__init__.py"), tree / ".venv/lib/a.py", tree / "README.md"):
        with path.open("a") as file:
            file.write("\n")
    time.sleep(3)
    assert starts() == first
    for count, name in enumerate(("main.py", "nutshell/paging.py"), first + 1):
        with (tree / name).open("a") as file:
            file.write("\n")
        wait_until(lambda count=count: starts() == count)  # type: ignore[misc]


def test_new_migration_is_announced_and_not_applied(service: Service, tree: Path) -> None:
    assert httpx.get(f"{service.url}/readyz").status_code == 200
    (tree / "migrations/versions/0002_later.py").write_text(LATER)
    words = "The schema is at 0001, not at 0002: run alembic upgrade head."
    wait_until(lambda: words in service.log.read_text())
    answer = httpx.get(f"{service.url}/readyz")
    assert (answer.status_code, answer.json()["detail"]) == (503, words)
    done = alembic(f"sqlite:///{tree}/test.db", "upgrade", "head", tree=tree)
    assert done.returncode == 0, done.stderr
    wait_until(lambda: httpx.get(f"{service.url}/readyz").status_code == 200)


def test_service_ends_with_its_terminal(tree: Path) -> None:
    """Its parent, like make, leads the session, and waits when the terminal is closed."""
    master, terminal = os.openpty()
    parent = ["sh", "-c", f'trap : HUP; "$@" <{os.ttyname(terminal)}; exit $?', "sh"]
    variables: Variables = {"DATABASE_URL": f"sqlite:///{tree}/test.db"}
    with Service(variables, tree=tree, wrapper=parent, reload=True) as service:
        os.close(terminal)
        os.close(master)
        assert service.process.wait(30) == 0
