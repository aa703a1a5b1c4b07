"""The title search of todos on a PostgreSQL that has pg_trgm, as those of platforms do."""

from pathlib import Path

import pytest

from nutshell.tests.postgres import Postgres
from nutshell.tests.service import TOKEN, Service, Variables, migrate

pytestmark = pytest.mark.slow

# Where only the client is installed, there is no initdb.
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
        migrate(url)
        variables: Variables = {"DATABASE_URL": url, "API_TOKEN": TOKEN}
        with Service(variables) as service, service.client() as client:
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
