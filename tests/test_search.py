"""The title search of todos on a PostgreSQL that has pg_trgm, as on most platforms."""

from pathlib import Path

import pytest

from nutshell.tests.postgres import Postgres
from nutshell.tests.service import TOKEN, Service, Variables, alembic, checkout, migrate

pytestmark = pytest.mark.slow

# Only the server brings initdb.
INSTALLED = sorted(path.parent for path in Path("/usr/lib/postgresql").glob("*/bin/initdb"))
ROWS = 100_000
FILL = f"""
INSERT INTO todos (title, done, owner_id, created_at)
    SELECT md5(n::text) || ' Ünïque ' || n, false, 1, now() FROM generate_series(1, {ROWS}) n
"""


@pytest.mark.skipif(not INSTALLED, reason="Debian's postgresql is not installed")
def test_search_uses_trigrams_where_the_database_has_them() -> None:
    server = Postgres(programs=INSTALLED[-1])
    try:
        url = server.create_database("app")
        migrate(url, checkout())
        variables: Variables = {"DATABASE_URL": url, "API_TOKEN": TOKEN}
        with Service(variables, tree=checkout()) as service, service.client() as client:
            client.post("/users", json={"email": "ada@example.com", "name": "Ada"})
            server.execute(FILL, "app")
            server.execute("VACUUM ANALYZE todos", "app")
            found = client.get("/todos", params={"q": "üNÏQUE 98765"})
            assert [todo["id"] for todo in found.json()] == [98765]
        plan = server.execute(
            "EXPLAIN SELECT * FROM todos WHERE title ILIKE '%' || 'ünïque 98765' || '%' ESCAPE '/'"
            " ORDER BY id LIMIT 51",
            "app",
        )
        assert "ix_todos_title_trigrams" in "\n".join(row[0] for row in plan)
        assert "Seq Scan" not in "\n".join(row[0] for row in plan)
    finally:
        server.close()


@pytest.mark.skipif(not INSTALLED, reason="Debian's postgresql is not installed")
@pytest.mark.parametrize("elsewhere", [True, False])
def test_release_needs_no_right_to_create_extensions(elsewhere: bool) -> None:
    """The index is optional. The extension may be there already, in a schema of its own."""
    server = Postgres(programs=INSTALLED[-1])
    try:
        url = server.create_database("app")
        server.execute("CREATE ROLE plain LOGIN PASSWORD 'plain'")
        if elsewhere:
            server.execute("CREATE SCHEMA extensions", "app")
            server.execute("CREATE EXTENSION pg_trgm SCHEMA extensions", "app")
            server.execute("GRANT USAGE ON SCHEMA extensions TO plain", "app")
        server.execute("REVOKE CREATE ON DATABASE app FROM PUBLIC", "app")
        server.execute("GRANT CREATE, USAGE ON SCHEMA public TO plain", "app")
        done = alembic(
            url.set(username="plain", password="plain"), "upgrade", "head", tree=checkout()
        )
        assert done.returncode == 0, done.stderr
        indexes = "SELECT 1 FROM pg_indexes WHERE indexname = 'ix_todos_title_trigrams'"
        assert bool(server.execute(indexes, "app")) is elsewhere
        assert ("titles are searched without an index" in done.stderr) is not elsewhere
    finally:
        server.close()
