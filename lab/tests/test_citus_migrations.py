"""The service's own tables, distributed as lab/citus.sql says: migrations run on them."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from lab.tests.citus import MISSING, REASON, Citus
from nutshell.health import HEAD
from nutshell.tests.service import (
    ROOT,
    TOKEN,
    Service,
    Variables,
    alembic,
    checkout,
    copy_tree,
    migrate,
)

pytestmark = pytest.mark.skipif(MISSING, reason=REASON)


@pytest.fixture
def cluster() -> Iterator[Citus]:
    cluster = Citus()
    yield cluster
    cluster.close()


KINDS = (
    "SELECT table_name::text, citus_table_type FROM citus_tables"
    " WHERE citus_table_type IN ('reference', 'distributed') ORDER BY 1"
)


def test_migrations_run_on_distributed_tables(cluster: Citus, tmp_path: Path) -> None:
    url = cluster.create_database("migrated")
    migrate(url, checkout())
    cluster.execute((ROOT / "lab/citus.sql").read_text(), "migrated")
    distributed = cluster.execute(KINDS, "migrated")
    assert len(distributed) == 4
    variables: Variables = {"DATABASE_URL": url, "API_TOKEN": TOKEN}
    with Service(variables, tree=checkout()) as service, service.client() as client:
        user = client.post("/users", json={"email": "ada@example.com", "name": "Ada"}).json()
        for number in range(20):
            todo = {"title": f"{number}", "owner_id": user["id"]}
            assert client.post("/todos", json=todo).status_code == 201
    tree = copy_tree(tmp_path)
    (tree / "migrations/versions/9999.py").write_text(
        "import sqlalchemy as sa\n"
        "from alembic import op\n"
        f"revision, down_revision = '9999', '{HEAD}'\n"
        "def upgrade() -> None:\n"
        "    for table in ('todos', 'users'):\n"
        "        op.add_column(table, sa.Column('place', sa.String(9), server_default='Hall'))\n"
        "def downgrade() -> None:\n"
        "    for table in ('todos', 'users'):\n"
        "        op.drop_column(table, 'place')\n"
    )
    places = (
        "SELECT count(*) FROM todos JOIN users u ON u.id = owner_id WHERE todos.place = u.place"
    )
    # The first migration makes the tables; all others go down and up here.
    for step in ("upgrade head", "downgrade -1", "upgrade head", "downgrade 0001", "upgrade head"):
        done = alembic(url, *step.split(), tree=tree)
        assert done.returncode == 0, done.stderr
        if step == "upgrade head":
            assert cluster.execute(places, "migrated") == [(20,)]
    assert cluster.execute(KINDS, "migrated") == distributed
