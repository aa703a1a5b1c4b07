"""A pooler that gives each transaction another connection: PgBouncer."""

from concurrent.futures import ThreadPoolExecutor

import pytest

from lab.tests.pgbouncer import PROGRAM, PgBouncer
from nutshell.tests.postgres import Postgres
from nutshell.tests.service import TOKEN, Service, Variables, checkout, migrate

pytestmark = pytest.mark.skipif(PROGRAM is None, reason="Debian's pgbouncer is not installed")

# The defaults of a database, where they are not ours.
OTHER_SETTINGS = {
    "timezone": "America/New_York",
    "datestyle": "German",
    "client_encoding": "LATIN1",
    "intervalstyle": "sql_standard",
    "bytea_output": "escape",  # of stored responses
}


def test_everything_works_behind_pgbouncer_in_transaction_mode(postgres: Postgres) -> None:
    postgres.create_database("pooled")
    with PgBouncer(postgres, "pooled") as bouncer:
        migrate(bouncer.url())
        variables: Variables = {
            "DATABASE_URL": bouncer.url(),
            "API_TOKEN": TOKEN,
            "WEB_CONCURRENCY": 2,
        }
        with Service(variables) as service, service.client() as client:
            assert client.get("/readyz").status_code == 200

            def work(number: int) -> set[int]:
                statuses = set()
                for turn in range(10):
                    shelf = {"label": f"{number}.{turn}"}
                    created = client.post("/shelves", json=shelf)
                    path = f"/shelves/{created.json()['id']}"
                    book = {"title": "a", "shelf_id": created.json()["id"]}
                    for response in (
                        created,
                        client.post("/shelves", json=shelf),
                        client.get(path),
                        client.patch(path, json={"place": "Hall"}),
                        client.post("/books", json=book),
                        client.get("/books?limit=100"),
                        client.post("/books/batch", json=[{"title": "a"}] * 10),
                        client.delete(path),
                        client.get(path),
                    ):
                        statuses.add(response.status_code)
                return statuses

            with ThreadPoolExecutor(8) as pool:
                seen = set.union(*pool.map(work, range(8)))
            assert seen == {200, 201, 204, 404, 409}
        assert postgres.execute("SELECT count(*) FROM books", "pooled") == [(880,)]


def test_other_settings_of_a_database_change_nothing_that_is_shown(postgres: Postgres) -> None:
    postgres.create_database("other")
    for name, value in OTHER_SETTINGS.items():
        postgres.execute(f"ALTER DATABASE other SET {name} = '{value}'")
    with PgBouncer(postgres, "other") as bouncer:
        migrate(bouncer.url(), checkout())
        variables: Variables = {"DATABASE_URL": bouncer.url(), "API_TOKEN": TOKEN}
        with Service(variables, tree=checkout()) as service, service.client() as client:
            user = client.post("/users", json={"email": "ada@example.com", "name": "Ада ∑"}).json()
            for due in ("0001-01-01T00:00:00Z", "9999-12-31T23:59:59.999999Z"):
                todo = {"title": "Ωmega", "owner_id": user["id"], "due_at": due}
                created = client.post("/todos", json=todo, headers={"idempotency-key": due})
                assert created.status_code == 201, created.text
                again = client.post("/todos", json=todo, headers={"idempotency-key": due})
                assert again.content == created.content
                shown = client.get(created.headers["location"]).json()
                assert shown == created.json()
                assert shown["due_at"] == due
            assert client.get(f"/users/{user['id']}").json() == user
