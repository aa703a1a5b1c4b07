${"#"} ${title}

A REST service: FastAPI, SQLModel and Alembic, on SQLite or PostgreSQL, with one database session per request. It was made
from Nutshell, whose machinery is in `nutshell/`.

${"##"} Run it
You need Python 3.11 or newer, make and git.

```sh
make run
```

The API is documented at http://127.0.0.1:8000/docs, and its data is in `nutshell.db`. When you edit a file, the service
restarts. The live view at http://127.0.0.1:8000/trace shows each request with its session, transaction and statements.

${"##"} Add a resource
```sh
make resource NAME=bookmark FIELDS='title:text:200 read:flag=false'
.venv/bin/alembic upgrade head
```

It writes the section in `models.py`, the routes in `main.py`, a migration and the first tests, for you to read and edit.
[MAKE_IT_YOURS.md](MAKE_IT_YOURS.md) has the types of fields, how to change what was written, and how to take in a later
version of `nutshell/`.

${"##"} Test it
```sh
make test          # the tests of this service, on SQLite and PostgreSQL
make check         # format, lint and types
make test ALL=1    # also those of nutshell/, as in CI: run it after a change or an update of that
make slow          # deployment, faults, random requests
```

${"##"} Deploy it
A platform needs this repository, a PostgreSQL in `DATABASE_URL`, and an `API_TOKEN`, without which the service refuses all
calls. [docs/operating.md](docs/operating.md) has the command for each platform.

${"##"} Read on
| to | read |
|---|---|
| call it | [docs/api.md](docs/api.md) |
| add resources and change them | [MAKE_IT_YOURS.md](MAKE_IT_YOURS.md), [docs/recipes.md](docs/recipes.md) |
| work on the code | [docs/development.md](docs/development.md), [CONTRIBUTING.md](.github/CONTRIBUTING.md) |
| operate, configure and monitor it | [docs/operating.md](docs/operating.md) |
| run several processes or machines | [docs/scaling.md](docs/scaling.md) |
| check its dependencies | [docs/dependencies.md](docs/dependencies.md) |
| report a vulnerability | [SECURITY.md](.github/SECURITY.md) |
